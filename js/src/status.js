// A job as a server told it, ours or an older one.

/**
 * Whatever is missing or of a wrong type is null. `state` is the server's own word, `raw` the whole answer.
 * @typedef {object} Status
 * @property {string} jobId
 * @property {string} state `queued`, `running`, `completed` or `failed`
 * @property {boolean} over whether it is completed or failed
 * @property {readonly string[]} images the images' URLs as the server gave them
 * @property {string | null} imageUrl the first of them: normally a path relative to the base URL
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
 * Read an answer of any UMRGEN server; null when it does not tell a state at all.
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
 * What counts as progress: a change of this resets the stall clock.
 * @param {Status} status
 */
export function place({ state, queuePosition, step }) {
  return `${state} ${queuePosition} ${step}`;
}

/**
 * `image_url` first, then every further image of `results`; old servers give only the latter.
 * @param {any} data
 * @returns {string[]}
 */
function imageUrls(data) {
  const listed = data.results?.images;
  const urls = [data.image_url, ...(Array.isArray(listed) ? listed.map((image) => image?.url ?? image) : [])];
  return [...new Set(urls.filter(text))];
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
