// `umrgen/node`: saving images to disk, in Node, Deno and Bun.
import { extname, join } from "node:path";
import { env } from "node:process";
import { Umrgen } from "./client.js";
import { UmrgenError } from "./errors.js";
import { checkTarget, diskTrouble, isFolder, PartialFile } from "./partial.js";

/** @import { UmrgenOptions } from "./client.js" */
/** @import { CallOptions, Image, Job } from "./job.js" */

/** @type {Record<string, string>} */
const EXTENSIONS = { "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp" };

/**
 * A verified image file on disk; `size` in bytes.
 * @typedef {Omit<Image, "bytes"> & {path: string, size: number}} SavedImage
 */

/** @typedef {CallOptions & {overwrite?: boolean, index?: number}} SaveOptions */

/**
 * Wait for the job if need be, then save its image, whole, verified and synced; give where it is.
 *
 * `to` is a file, or a folder; by default the file is called after the job, in the current folder. Nothing ever
 * has the final name but the whole image, and a file that is there is not replaced unless `overwrite`.
 * @param {Job} job
 * @param {string} [to]
 * @param {SaveOptions} [options]
 * @returns {Promise<SavedImage>}
 */
export async function saveImage(job, to, { overwrite = false, ...call } = {}) {
  let target = to ?? "";
  const inFolder = !to || /[/\\]$/.test(to) || (await isFolder(to));
  if (inFolder) target = join(target, `${job.id}.png`);
  const partial = new PartialFile(target);
  try {
    await checkTarget(target, overwrite);
    const { bytes, ...facts } = await job.download(partial, call);
    // A name of our own making follows the image's true type.
    if (inFolder) target = target.slice(0, -extname(target).length) + EXTENSIONS[facts.mediaType];
    await partial.publish(target, overwrite);
    return { ...facts, path: target, size: bytes.length };
  } catch (error) {
    const told = diskTrouble(error, target);
    if (told instanceof UmrgenError) told.jobId ??= job.id;
    throw told;
  } finally {
    await partial.drop();
  }
}

/**
 * The guide's function: wait for a job and save its image as `{jobId}.png` in the current folder. The server and
 * the key are those of the arguments, else of UMRGEN_BASE_URL and UMRGEN_API_KEY.
 * @param {string} jobId
 * @param {string} [apiKey]
 * @param {Partial<UmrgenOptions> & {to?: string, overwrite?: boolean, signal?: AbortSignal}} [options]
 */
export async function pollAndDownload(jobId, apiKey, { baseUrl, to, overwrite, signal, ...options } = {}) {
  const address = baseUrl ?? env.UMRGEN_BASE_URL;
  if (!address) {
    const next = "Give baseUrl, or set UMRGEN_BASE_URL to your server's address.";
    throw new UmrgenError("no server is configured", { code: "no_server", next });
  }
  const umrgen = new Umrgen({ ...options, baseUrl: address, apiKey: apiKey ?? env.UMRGEN_API_KEY });
  return saveImage(umrgen.job(jobId), to, { overwrite, signal });
}
