// The rules of a download, without any I/O: where the image is, how to resume, what an answer means.
import { OutputForbidden, OutputMissing, RateLimited, ServerError } from "./errors.js";

/**
 * The full URL of an image, and whether the server's key may go along. A path is appended to the base URL as it
 * is, never re-encoded. Throws OutputForbidden for a URL of another origin, unless `followForeign`.
 * @param {string} baseUrl
 * @param {string} imageUrl
 * @param {boolean} [followForeign]
 * @returns {{url: string, withKey: boolean}}
 */
export function resolveOutput(baseUrl, imageUrl, followForeign = false) {
  if (/^\/(?!\/)[^\\]*$/.test(imageUrl)) return { url: baseUrl.replace(/\/+$/, "") + imageUrl, withKey: true };
  if (/^https?:\/\/[^\\\x00-\x20\x7f]+$/i.test(imageUrl) && URL.canParse(imageUrl)) {
    const withKey = new URL(imageUrl).origin === new URL(baseUrl).origin;
    if (withKey || followForeign) return { url: imageUrl, withKey };
  }
  throw new OutputForbidden(`the server names an image elsewhere: ${JSON.stringify(imageUrl.slice(0, 200))}`, {
    code: "foreign_output",
    next: "If you trust that address, allow it with followForeign.",
  });
}

/**
 * What is there of a file already: `size` bytes of the version that `validator` names.
 * @typedef {{size: number, validator: string}} Have
 */

/**
 * The request headers that ask for the rest; identity, because lengths count file bytes.
 * @param {Have} have
 */
export function rangeHeaders({ size, validator }) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "image/png, image/jpeg, image/webp", "Accept-Encoding": "identity" };
  if (size) headers.Range = `bytes=${size}-`;
  // A weak validator may not stand in If-Range (RFC 9110).
  if (size && validator.startsWith('"')) headers["If-Range"] = validator;
  return headers;
}

/**
 * What tells versions of a file apart: its ETag, else its date, else nothing.
 * @param {Headers} headers
 */
export function validatorOf(headers) {
  return headers.get("etag") || headers.get("last-modified") || "";
}

/** What is there of the file is of no use, and must be asked for anew. */
export class Stale extends Error {}

/**
 * Whether an answer's body continues what is there (true), or is the file from its start. Throws Stale,
 * OutputForbidden and OutputMissing for refusals, RateLimited and ServerError for what may pass.
 * @param {number} status
 * @param {Headers} headers
 * @param {Have} have
 */
export function continues(status, headers, { size, validator }) {
  if (status === 200) return false;
  if (status === 206) {
    const from = /^bytes (\d+)-/.exec(headers.get("content-range") ?? "")?.[1];
    if (from && Number(from) === size && validator === validatorOf(headers)) return true;
  }
  if (status === 206 || status === 416) throw new Stale();
  const http = `(HTTP ${status})`;
  if (status === 410)
    throw new OutputMissing(`the image has expired on the server ${http}`, { code: "output_expired", status });
  if (status === 404)
    throw new OutputMissing(`the server has no such image ${http}`, { code: "output_not_found", status });
  if (status === 429) throw new RateLimited(`the server is asked too often ${http}`, { status });
  if (status >= 500) throw new ServerError(`the server failed to send the image ${http}`, { status });
  throw new OutputForbidden(`the server refuses the image ${http}`, { status });
}

/**
 * The size of the whole file, as far as the headers tell.
 * @param {number} status
 * @param {Headers} headers
 */
export function announcedSize(status, headers) {
  const found =
    status === 206
      ? /^bytes \d+-\d+\/(\d+)$/.exec(headers.get("content-range") ?? "")?.[1]
      : /^\d{1,15}$/.exec(headers.has("content-encoding") ? "" : (headers.get("content-length") ?? ""))?.[0];
  return found ? Number(found) : null;
}
