// The rules of a download, without I/O: the image's URL, when to resume, which errors to retry.
import { OutputForbidden, OutputMissing, RateLimited, ServerError } from "./errors.js";

/**
 * Return the full URL of an image, and whether the API key may be sent to it. A path is appended to the base URL
 * unchanged, never re-encoded. Throws OutputForbidden for a URL of another origin, unless `followForeign`.
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
  throw new OutputForbidden(`the image is on another server: ${JSON.stringify(imageUrl.slice(0, 200))}`, {
    code: "foreign_output",
    next: "If you trust it, set followForeign.",
  });
}

/**
 * The part of a file that was received: `size` bytes of the version with this `validator`.
 * @typedef {{size: number, validator: string}} PartialState
 */

/**
 * Return the request headers for the rest of the file; identity encoding, because lengths count file bytes.
 * @param {PartialState} partial
 */
export function rangeHeaders({ size, validator }) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "image/png, image/jpeg, image/webp", "Accept-Encoding": "identity" };
  if (size) headers.Range = `bytes=${size}-`;
  // If-Range does not allow a weak validator (RFC 9110).
  if (size && validator.startsWith('"')) headers["If-Range"] = validator;
  return headers;
}

/**
 * Return the validator of a file's version: its ETag, otherwise its modification date, otherwise nothing.
 * @param {Headers} headers
 */
export function validatorOf(headers) {
  return headers.get("etag") || headers.get("last-modified") || "";
}

/** The partial file cannot be continued and must be discarded. */
export class StalePartial extends Error {}

/**
 * Return whether a response's body continues the partial file (true) or starts the file from its first byte. Throws
 * StalePartial, RateLimited and ServerError for transient errors, OutputForbidden and OutputMissing for others.
 * @param {number} status
 * @param {Headers} headers
 * @param {PartialState} partial
 */
export function isContinuation(status, headers, { size, validator }) {
  if (status === 200) return false;
  if (status === 206) {
    const from = /^bytes (\d+)-/.exec(headers.get("content-range") ?? "")?.[1];
    if (from && Number(from) === size && validator === validatorOf(headers)) return true;
  }
  if (status === 206 || status === 416) throw new StalePartial();
  const http = `(HTTP ${status})`;
  if (status === 410)
    throw new OutputMissing(`the image has expired on the server ${http}`, { code: "output_expired", status });
  if (status === 404)
    throw new OutputMissing(`the server has no such image ${http}`, { code: "output_not_found", status });
  if (status === 429) throw new RateLimited(`too many requests to the server ${http}`, { status });
  if (status >= 500) throw new ServerError(`the server failed to send the image ${http}`, { status });
  throw new OutputForbidden(`the server refused the request for the image ${http}`, { status });
}

/**
 * Return the size of the whole file by the headers, or null when they do not give it.
 * @param {number} status
 * @param {Headers} headers
 */
export function expectedSize(status, headers) {
  const found =
    status === 206
      ? /^bytes \d+-\d+\/(\d+)$/.exec(headers.get("content-range") ?? "")?.[1]
      : /^\d{1,15}$/.exec(headers.has("content-encoding") ? "" : (headers.get("content-length") ?? ""))?.[0];
  return found ? Number(found) : null;
}
