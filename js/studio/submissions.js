// Submitting jobs: one for each image, none of them twice.
import { parseStatus } from "../src/index.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { DrawRequest } from "./composer.js" */
/** @import { Jobs, Request } from "./jobs.js" */

/** The last incomplete request, with its idempotency keys, so that a repetition creates no second job. */
let unsent = { text: "", keys: /** @type {string[]} */ ([]), sent: 0 };

/**
 * Submit all jobs; return their number. Throws UmrgenError; then a second call with the same request continues.
 * @param {Umrgen} umrgen
 * @param {Jobs} jobs
 * @param {DrawRequest} drawRequest
 */
export async function submitAll(umrgen, jobs, { request, seeds }) {
  const text = JSON.stringify([request, seeds]);
  if (unsent.text !== text) unsent = { text, keys: seeds.map(idempotencyKey), sent: 0 };
  const { keys } = unsent;
  while (unsent.sent < seeds.length) {
    await submitOne(umrgen, jobs, request, seeds[unsent.sent], keys[unsent.sent]);
    unsent.sent++;
  }
  unsent = { text: "", keys: [], sent: 0 };
  return seeds.length;
}

/**
 * Submit one job. Throws UmrgenError.
 * @param {Umrgen} umrgen
 * @param {Jobs} jobs
 * @param {Request} request
 * @param {number | null} [seed]
 * @param {string} [key]
 */
export async function submitOne(umrgen, jobs, request, seed, key = idempotencyKey()) {
  // The request of a listed job has other fields, too, such as its webhook.
  const { prompt, negative, width, height, steps, loras, reference_images: referenceImages, model, cfg } = request;
  const chosen = { model: model ?? undefined, cfg: cfg ?? undefined, seed: seed ?? undefined };
  const options = { negative, width, height, steps, loras, ...chosen, referenceImages, idempotencyKey: key };
  const { id } = await umrgen.submit(prompt, options);
  const first = { job_id: id, state: "queued", seed, progress: { step: 0, total: request.steps } };
  const status = parseStatus(first, id);
  if (status) jobs.update(status, request);
}

function idempotencyKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
