// What an answer means.
import * as errors from "./errors.js";
import { Failure } from "./server.js";

/** @import { Reply } from "./server.js" */

/** @type {[string | number, typeof errors.ApiError][]} */
const kinds = [
  ["unauthorized", errors.Unauthorized],
  ["job_not_found", errors.JobNotFound],
  ["concurrent_limit", errors.ConcurrencyLimit],
  ["content_policy", errors.ContentPolicy],
  [401, errors.Unauthorized],
  [403, errors.Forbidden],
  [404, errors.JobNotFound],
  [405, errors.Unsupported],
  [429, errors.RateLimited],
  [501, errors.Unsupported],
];
const KINDS = new Map(kinds);

/**
 * The error for an answer that is not what was asked for: status code first, words second.
 * @param {Reply} reply
 * @param {string | null} [jobId]
 */
export function failureOf({ status, headers, text, json }, jobId = null) {
  if (status >= 300 && status < 400) {
    const message = `the server redirects elsewhere (HTTP ${status}); the key was not sent there`;
    return new errors.NotUmrgen(message, { status, jobId, next: "If that is the right server, make it the base URL." });
  }
  const html = /^\s*</.test(text) || /html/.test(headers.get("content-type") ?? "");
  if (status < 400 || (!json && html && (status === 403 || status === 404))) {
    const what = !text ? "an empty answer" : html ? "an HTML page" : "something unreadable";
    return new errors.NotUmrgen(`${what} came where JSON was due (HTTP ${status})`, { status, jobId });
  }
  return refusal(status, json ?? {}, jobId);
}

/**
 * Old servers put their code into `error` (`CONCURRENT_LIMIT`), newer ones into `code`.
 * @param {number} status
 * @param {Record<string, unknown>} data
 * @param {string | null} jobId
 */
function refusal(status, data, jobId) {
  const told = data.error || data.detail || data.message;
  const words = typeof told === "string" ? told : "";
  const code = typeof data.code === "string" ? data.code : words === "CONCURRENT_LIMIT" ? "concurrent_limit" : "";
  const Kind = KINDS.get(code) ?? KINDS.get(status) ?? (transient(status) ? errors.ServerError : errors.InvalidRequest);
  const error = new Kind(`${words || Kind.words} (HTTP ${status})`, {
    status,
    code,
    jobId: typeof data.job_id === "string" ? data.job_id : jobId,
    next: Kind.next || (typeof data.next === "string" ? data.next : ""),
  });
  error.coded = !!code;
  return error;
}

/**
 * Whether an answer tells of trouble that may pass.
 * @param {number} status
 */
export function transient(status) {
  return (status >= 500 && status !== 501) || status === 408 || status === 425;
}

/**
 * Seconds that `Retry-After` asks for (RFC 9110: a number or a date), or null if it says nothing.
 *
 * A date is read against the answer's own `Date`, so that a wrong clock on either side is harmless.
 * @param {{headers: Headers, wall: number}} reply
 */
export function retryAfter({ headers, wall }) {
  const text = headers.get("retry-after")?.trim() ?? "";
  if (/^\d{1,9}$/.test(text)) return Number(text);
  const then = seconds(text);
  return then === null ? null : Math.max(0, then - (seconds(headers.get("date")) ?? wall));
}

/**
 * @param {string | null} date as in HTTP; `Date.parse` alone would take almost anything for one
 */
function seconds(date) {
  const ms = /^[A-Z][a-z]+, .+ GMT$/.test(date ?? "") ? Date.parse(date ?? "") : NaN;
  return Number.isNaN(ms) ? null : ms / 1000;
}

/**
 * The error for a failure to get an answer. Throws `failure` on when it is something else: a deadline, an abort.
 * @param {unknown} failure
 * @param {string | null} [jobId]
 */
export function unreachable(failure, jobId = null) {
  if (!(failure instanceof Failure)) throw failure;
  const message = `the server cannot be reached: ${failure.message}`;
  const next = jobId ? "The job goes on: carry on with umrgen.job(jobId)." : undefined;
  const error = new errors.ConnectionFailed(message, { jobId, next, cause: failure.cause });
  error.sent = failure.sent;
  return error;
}

/**
 * Whether an answer means that the path itself is unknown, not what it names.
 * @param {unknown} error
 * @returns {error is errors.ApiError}
 */
export function lacksCall(error) {
  if (!(error instanceof errors.ApiError)) return false;
  const namesAJob = error instanceof errors.JobNotFound && error.coded;
  return (error.status === 404 && !namesAJob) || error.status === 405 || error.status === 501;
}
