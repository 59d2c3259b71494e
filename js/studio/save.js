// A picture onto the person's disk: fetched and checked by the client, so a half of one is never saved.

/** @import { Umrgen } from "../src/index.js" */
/** @import { Entry } from "./jobs.js" */

/**
 * Throws UmrgenError.
 * @param {Umrgen} umrgen
 * @param {Entry} entry
 */
export async function save(umrgen, entry) {
  const { bytes, mediaType } = await umrgen.job(entry.id).image({ timeout: 120 });
  const address = URL.createObjectURL(new Blob([bytes], { type: mediaType }));
  Object.assign(document.createElement("a"), { href: address, download: fileName(entry, mediaType) }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/**
 * @param {Entry} entry
 * @param {string} [mediaType]
 */
export function fileName({ request, status }, mediaType = "image/png") {
  const words = request.prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["picture"];
  const ending = mediaType.split("/")[1].replace("jpeg", "jpg");
  return `${words.slice(0, 6).join("-").slice(0, 60)}-${status.seed ?? status.jobId}.${ending}`;
}
