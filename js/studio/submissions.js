// Submitting jobs: one for each image, none of them twice.
import { hex } from "../src/images.js";
import { parseStatus } from "../src/index.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { DrawRequest } from "./composer.js" */
/** @import { Jobs, Request } from "./jobs.js" */

/**
 * The last request of which a submit failed, with its idempotency keys, so that a repetition creates no second job.
 * @type {{text: string, keys: string[], sent: number} | null}
 */
let unsent = null;

/**
 * Submit all jobs; return their number. Throws UmrgenError; then a second call with the same request continues.
 * @param {Umrgen} umrgen
 * @param {Jobs} jobs
 * @param {DrawRequest} drawRequest
 */
export async function submitAll(umrgen, jobs, { request, seeds }) {
  const text = JSON.stringify([request, seeds]);
  const batch = unsent?.text === text ? unsent : { text, keys: seeds.map(idempotencyKey), sent: 0 };
  unsent = null; // while it is being sent, another call is a request of its own
  try {
    for (; batch.sent < seeds.length; batch.sent++) {
      await submitOne(umrgen, jobs, request, seeds[batch.sent], batch.keys[batch.sent]);
    }
  } catch (error) {
    unsent = batch;
    throw error;
  }
  return seeds.length;
}

/**
 * Submit one job. Throws UmrgenError.
 * @param {Umrgen} umrgen
 * @param {Jobs} jobs
 * @param {Request} request
 * @param {number | null | undefined} seed
 * @param {string} key
 */
async function submitOne(umrgen, jobs, request, seed, key) {
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
  return hex(crypto.getRandomValues(new Uint8Array(16)));
}
