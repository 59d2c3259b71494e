// Sending a wish: one job for each picture, none of them twice.
import { parseStatus } from "../src/index.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Wish } from "./composer.js" */
/** @import { Jobs, Request } from "./jobs.js" */

/** The wish that was not sent to its end, with the keys that make its repetition harmless. */
let unsent = { words: "", keys: /** @type {string[]} */ ([]), sent: 0 };

/**
 * Send all of it; give how many there are. Throws UmrgenError; the same wish once more goes on where it stopped.
 * @param {Umrgen} umrgen
 * @param {Jobs} jobs
 * @param {Wish} wish
 */
export async function send(umrgen, jobs, { request, seeds }) {
  const words = JSON.stringify([request, seeds]);
  if (unsent.words !== words) unsent = { words, keys: seeds.map(idempotencyKey), sent: 0 };
  const { keys } = unsent;
  while (unsent.sent < seeds.length) {
    await sendOne(umrgen, jobs, request, seeds[unsent.sent], keys[unsent.sent]);
    unsent.sent++;
  }
  unsent = { words: "", keys: [], sent: 0 };
  return seeds.length;
}

/**
 * @param {Umrgen} umrgen
 * @param {Jobs} jobs
 * @param {Request} request
 * @param {number | null} [seed]
 * @param {string} [key]
 */
export async function sendOne(umrgen, jobs, request, seed, key = idempotencyKey()) {
  const { prompt, reference_images: referenceImages, ...picture } = request;
  const given = { ...picture, referenceImages, seed: seed ?? undefined, idempotencyKey: key };
  const { id } = await umrgen.submit(prompt, given);
  const first = { job_id: id, state: "queued", seed, progress: { step: 0, total: request.steps } };
  const status = parseStatus(first, id);
  if (status) jobs.learn(status, request);
}

function idempotencyKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
