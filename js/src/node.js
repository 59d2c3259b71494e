// `umrgen/node`: saving images to disk, in Node, Deno and Bun.
import { extname, join } from "node:path";
import { Umrgen } from "./client.js";
import { UmrgenError } from "./errors.js";
import { checkTarget, isFolder, PartialFile, translateDiskError } from "./partial.js";

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
 * Wait until the job is completed, then save its image, verified and synced; return the saved image.
 *
 * `to` is a file or a folder; by default, the file is named after the job, in the current folder. A file under the
 * final name is always complete, and an existing file is replaced only with `overwrite`.
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
    // A file named after the job has the extension of the image's actual type.
    if (inFolder) target = target.slice(0, -extname(target).length) + EXTENSIONS[facts.mediaType];
    await partial.publish(target, overwrite);
    return { ...facts, path: target, size: bytes.length };
  } catch (error) {
    const translated = translateDiskError(error, target);
    if (translated instanceof UmrgenError) translated.jobId ??= job.id;
    throw translated;
  } finally {
    await partial.discard();
  }
}

/**
 * Wait for a job and save its image, by default as `{jobId}.png` in the current folder (the function of the guide).
 * The server and the API key default to UMRGEN_BASE_URL and UMRGEN_API_KEY.
 * @param {string} jobId
 * @param {string} [apiKey]
 * @param {Partial<UmrgenOptions> & {to?: string, overwrite?: boolean, signal?: AbortSignal}} [options]
 */
export async function pollAndDownload(jobId, apiKey, { baseUrl, to, overwrite, signal, ...options } = {}) {
  const umrgen = new Umrgen({ ...options, baseUrl, apiKey });
  return saveImage(umrgen.job(jobId), to, { overwrite, signal });
}
