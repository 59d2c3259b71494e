// Downloading an image: it is fetched and verified by the client, so that an incomplete one is never saved.

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry } from "./jobs.js" */

/**
 * Return the verified image of a job as a file. Throws UmrgenError.
 * @param {Umrgen} umrgen
 * @param {JobEntry} entry
 */
export async function downloadedFile(umrgen, entry) {
  const { bytes, mediaType } = await umrgen.job(entry.id).image({ timeout: 120 });
  return new File([bytes], fileName(entry, mediaType), { type: mediaType });
}

/**
 * Download the image of a job; return a message. Throws UmrgenError.
 * @param {Umrgen} umrgen
 * @param {JobEntry} entry
 */
export async function downloadImage(umrgen, entry) {
  save(await downloadedFile(umrgen, entry));
  return "Saved.";
}

/** Save a file in the folder of downloads. @param {File} file */
export function save(file) {
  const url = URL.createObjectURL(file);
  Object.assign(document.createElement("a"), { href: url, download: file.name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/**
 * Return a file name by the prompt and the seed.
 * @param {JobEntry} entry
 * @param {string} [mediaType]
 */
export function fileName({ request, status }, mediaType = "image/png") {
  const words = request.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["image"];
  const extension = mediaType.split("/")[1].replace("jpeg", "jpg");
  return `${words.slice(0, 6).join("-").slice(0, 60)}-${status.seed ?? status.jobId}.${extension}`;
}
