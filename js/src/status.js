// The status of a job, as reported by a server of this or an older version.
import { ERROR_CODE, printable } from "./text.js";

/** Members of a status that the first UMRGEN servers do not send. */
const OUR_MEMBERS = ["attempt", "engine", "error_code", "retry_after_ms"];

/**
 * Missing values and values of a wrong type are null. `state` is the server's string. Its texts are printable.
 * `raw` is the whole response, unchanged.
 * @typedef {object} Status
 * @property {string} jobId
 * @property {string} state `queued`, `running`, `completed` or `failed`
 * @property {boolean} over whether it is completed or failed
 * @property {readonly string[]} images the images' URLs in the form of the response
 * @property {string | null} imageUrl the first of them: usually a path relative to the base URL
 * @property {string | null} error
 * @property {string | null} errorCode
 * @property {number | null} queuePosition
 * @property {number | null} etaSeconds
 * @property {number | null} step
 * @property {number | null} totalSteps
 * @property {number | null} seed
 * @property {string | null} engine
 * @property {number | null} retryAfterMs
 * @property {Record<string, any>} raw
 */

/**
 * Parse a status response of any UMRGEN server; return null when it has no state.
 * @param {any} data
 * @param {string} jobId
 * @returns {Status | null}
 */
export function parseStatus(data, jobId) {
  const state = typeof data?.state === "string" && printable(data.state, 40);
  if (!state) return null;
  const images = imageUrls(data);
  return Object.freeze({
    jobId,
    state,
    over: state === "completed" || state === "failed",
    images,
    imageUrl: images[0] ?? null,
    error: text(data.error),
    errorCode: code(data.error_code),
    queuePosition: queuePosition(data),
    etaSeconds: number(data.eta_seconds),
    step: integer(data.progress?.step),
    totalSteps: integer(data.progress?.total),
    seed: integer(data.seed, Number.MAX_SAFE_INTEGER),
    engine: text(data.engine),
    retryAfterMs: number(data.retry_after_ms),
    raw: data,
  });
}

/**
 * Return the values whose change counts as progress and resets the stall timer.
 * @param {Status} status
 */
export function progressKey({ state, queuePosition, step }) {
  return `${state} ${queuePosition} ${step}`;
}

/**
 * Return the place in the queue from 1; the first servers, which send none of our other members, count from 0.
 * @param {any} data
 */
function queuePosition(data) {
  const place = integer(data.queue_position);
  const older = data.state === "queued" && !OUR_MEMBERS.some((name) => Object.hasOwn(data, name));
  return place === null ? null : place + (older ? 1 : 0);
}

/**
 * Return the images of `results`, the first of which is `image_url`; older servers send one of the two.
 * @param {any} data
 * @returns {string[]}
 */
function imageUrls(data) {
  const listed = data.results?.images;
  const found = Array.isArray(listed) ? listed.map((image) => image?.url ?? image) : [];
  const urls = found.filter((url) => typeof url === "string" && url);
  const first = data.image_url;
  if (typeof first !== "string" || !first) return [...new Set(urls)];
  return [...new Set([first, ...(urls.includes(first) ? urls : urls.slice(1))])];
}

/** @param {unknown} value */
function text(value) {
  return (typeof value === "string" && printable(value)) || null;
}

/** @param {unknown} value */
function code(value) {
  return typeof value === "string" && ERROR_CODE.test(value) ? value : null;
}

/** @param {unknown} value */
function number(value, most = 1e12) {
  return typeof value === "number" && value >= 0 && value <= most ? value : null;
}

/** @param {unknown} value */
function integer(value, most = 1e12) {
  const found = number(value, most);
  return found === null ? null : Math.trunc(found);
}
