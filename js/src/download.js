// The rules of a download, without I/O: the image's URL, when to resume, which errors to retry.
import { NotUmrgen, OutputForbidden, OutputMissing, RateLimited, ServerError } from "./errors.js";
import { reportsOutputError } from "./responses.js";
import { printable, quoted } from "./text.js";

/** A strong ETag that a header can have. */
const SENDABLE_TAG = /^"[\x21\x23-\x7e]{0,200}"$/;
/** Characters of the longest URL of an image. */
const MAX_URL = 8192;

/**
 * Return the full URL of an image, and whether the API key may be sent to it. A path is appended to the base URL
 * unchanged, never re-encoded. Throws OutputForbidden for a URL of another origin, unless `followForeign`.
 * @param {string} baseUrl
 * @param {string} imageUrl
 * @param {boolean} [followForeign]
 * @returns {{url: string, withKey: boolean}}
 */
export function resolveOutput(baseUrl, imageUrl, followForeign = false) {
  if (imageUrl.length > MAX_URL || /\p{Surrogate}/u.test(imageUrl)) {
    const message = `the image's URL is not valid: ${quoted(imageUrl)}`;
    throw new OutputForbidden(message, { code: "bad_image_url" });
  }
  if (/^\/(?!\/)[^\\]*$/.test(imageUrl)) return { url: baseUrl.replace(/\/+$/, "") + imageUrl, withKey: true };
  if (/^https?:\/\/[^\\\x00-\x20\x7f]+$/i.test(imageUrl) && URL.canParse(imageUrl)) {
    const withKey = new URL(imageUrl).origin === new URL(baseUrl).origin;
    if (withKey || followForeign) return { url: imageUrl, withKey };
  }
  throw foreignOutput(imageUrl);
}

/** @param {string} url */
function foreignOutput(url) {
  const next = "If you trust it, set followForeign.";
  return new OutputForbidden(`the image is on another server: ${quoted(url, 200)}`, { code: "foreign_output", next });
}

/**
 * Return the target of a redirect of `url`, and whether the API key may be sent to it. As `resolveOutput`.
 * @param {string} baseUrl
 * @param {string} url
 * @param {string} location
 * @param {boolean} followForeign
 */
export function redirectTarget(baseUrl, url, location, followForeign) {
  if (!URL.canParse(location, url)) throw foreignOutput(location);
  return resolveOutput(baseUrl, new URL(location, url).href, followForeign);
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
  if (size && SENDABLE_TAG.test(validator)) headers["If-Range"] = validator;
  return headers;
}

/**
 * Return the validator of a file's version: its ETag, otherwise its modification date, otherwise nothing.
 * @param {Headers} headers
 */
export function validatorOf(headers) {
  return headers.get("etag") || headers.get("last-modified") || "";
}

/**
 * Return whether the body of a response may be an image; a page or JSON with 200 is from a gateway.
 * @param {number} status
 * @param {Headers} headers
 */
export function hasImage(status, headers) {
  const type = (headers.get("content-type") ?? "").split(";")[0].trim().toLowerCase();
  return (status === 200 || status === 206) && !/^text\/|(json|xml|html)$/.test(type);
}

/** The partial file cannot be continued and must be discarded. */
export class StalePartial extends Error {}

/**
 * Return whether a response's body continues the partial file (true) or starts the file from its first byte.
 *
 * `error` is the body of a response without an image; `foreign`: the image is on another server than the API. Throws
 * StalePartial, RateLimited, ServerError and NotUmrgen (a gateway's response) for transient errors, OutputForbidden and
 * OutputMissing for others.
 * @param {number} status
 * @param {Headers} headers
 * @param {PartialState} partial
 * @param {{error?: string, foreign?: boolean}} [response]
 */
export function isContinuation(status, headers, { size, validator }, { error = "", foreign = false } = {}) {
  if (status === 200 && hasImage(status, headers)) return false;
  if (status === 206) {
    const from = /^bytes (\d{1,15})-/.exec(headers.get("content-range") ?? "")?.[1];
    if (from && Number(from) === size && validator === validatorOf(headers)) return true;
  }
  if (status === 206 || status === 416) throw new StalePartial();
  const own = foreign || status === 429 || status >= 500 || reportsOutputError(status, error);
  throw status < 400 || !own ? gatewayError(status, headers) : downloadError(status);
}

/**
 * @param {number} status
 * @param {Headers} headers
 */
function gatewayError(status, headers) {
  const type = printable(headers.get("content-type") ?? "", 80) || "no content type";
  return new NotUmrgen(`expected an image, got another server's response (${type}, HTTP ${status})`, { status });
}

/** @param {number} status */
function downloadError(status) {
  const http = `(HTTP ${status})`;
  if (status === 410)
    return new OutputMissing(`the image has expired on the server ${http}`, { code: "output_expired", status });
  if (status === 404)
    return new OutputMissing(`the server has no such image ${http}`, { code: "output_not_found", status });
  if (status === 429) return new RateLimited(`too many requests to the server ${http}`, { status });
  if (status >= 500) return new ServerError(`the server failed to send the image ${http}`, { status });
  return new OutputForbidden(`the server refused the request for the image ${http}`, { status });
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
