// The status of a job, as reported by a server of this or an older version.

/**
 * Missing values and values of a wrong type are null. `state` is the server's string, `raw` the whole response.
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
  const state = text(data?.state);
  if (!state) return null;
  const images = imageUrls(data);
  return Object.freeze({
    jobId,
    state,
    over: state === "completed" || state === "failed",
    images,
    imageUrl: images[0] ?? null,
    error: text(data.error),
    errorCode: text(data.error_code),
    queuePosition: integer(data.queue_position),
    etaSeconds: number(data.eta_seconds),
    step: integer(data.progress?.step),
    totalSteps: integer(data.progress?.total),
    seed: integer(data.seed),
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
 * Return the images of `results`, the first of which is `image_url`; older servers send one of the two.
 * @param {any} data
 * @returns {string[]}
 */
function imageUrls(data) {
  const listed = data.results?.images;
  const urls = (Array.isArray(listed) ? listed.map((image) => image?.url ?? image) : []).filter(text);
  const first = data.image_url;
  return [...new Set(text(first) ? [first, ...(urls.includes(first) ? urls : urls.slice(1))] : urls)];
}

/** @param {unknown} value */
function text(value) {
  return typeof value === "string" && value ? value : null;
}

/** @param {unknown} value */
function number(value) {
  return typeof value === "number" && value >= 0 && value < 1e12 ? value : null;
}

/** @param {unknown} value */
function integer(value) {
  const found = number(value);
  return found === null ? null : Math.trunc(found);
}
