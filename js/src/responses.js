// Interpreting responses.
import * as errors from "./errors.js";
import { TransportFailure } from "./transport.js";

/** @import { Reply } from "./transport.js" */

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
 * Return the error for an unexpected response: by its status code first, then by its body.
 * @param {Reply} reply
 * @param {string | null} [jobId]
 */
export function errorFrom({ status, headers, text, json }, jobId = null) {
  if (status >= 300 && status < 400) {
    const message = `the server redirects to another address (HTTP ${status}); the API key was not sent there`;
    const next = "If that is the right server, use it as the base URL.";
    return new errors.NotUmrgen(message, { status, jobId, next });
  }
  const html = /^\s*</.test(text) || /html/.test(headers.get("content-type") ?? "");
  if (status < 400 || (!json && html && (status === 403 || status === 404))) {
    const content = !text ? "an empty response" : html ? "an HTML page" : "an unreadable response";
    return new errors.NotUmrgen(`expected JSON, got ${content} (HTTP ${status})`, { status, jobId });
  }
  return errorFromBody(status, json ?? {}, jobId);
}

/**
 * Return the error for the JSON of a response. Older servers send their code in `error` (`CONCURRENT_LIMIT`), newer
 * ones in `code`.
 * @param {number} status
 * @param {Record<string, unknown>} data
 * @param {string | null} jobId
 */
function errorFromBody(status, data, jobId) {
  const text = data.error || data.detail || data.message;
  const message = typeof text === "string" ? text : "";
  const code = typeof data.code === "string" ? data.code : message === "CONCURRENT_LIMIT" ? "concurrent_limit" : "";
  const Other = isTransient(status) ? errors.ServerError : errors.InvalidRequest;
  const Kind = KINDS.get(code) ?? KINDS.get(status) ?? Other;
  const error = new Kind(`${message || Kind.defaultMessage} (HTTP ${status})`, {
    status,
    code,
    jobId: typeof data.job_id === "string" ? data.job_id : jobId,
    next: Kind.next || (typeof data.next === "string" ? data.next : ""),
  });
  error.coded = !!code;
  return error;
}

/**
 * Return whether a retry of the same request may succeed.
 * @param {number} status
 */
export function isTransient(status) {
  return (status >= 500 && status !== 501) || status === 408 || status === 425;
}

/**
 * Return the seconds of a `Retry-After` header (RFC 9110: a number or a date), or null without a valid one.
 *
 * A date is compared with the response's own `Date` header, so that a wrong clock on either side has no effect.
 * @param {{headers: Headers, wall: number}} reply
 */
export function retryAfter({ headers, wall }) {
  const text = headers.get("retry-after")?.trim() ?? "";
  if (/^\d{1,9}$/.test(text)) return Number(text);
  const then = seconds(text);
  return then === null ? null : Math.max(0, then - serverTime({ headers, wall }));
}

/**
 * Return the time of a response in seconds since the epoch: its `Date` header, or else this machine's clock.
 * @param {{headers: Headers, wall: number}} reply
 */
export function serverTime({ headers, wall }) {
  return seconds(headers.get("date")) ?? wall;
}

/**
 * Return the seconds until the server's clock begins its next minute, at which the first servers reset limits.
 * @param {{headers: Headers, wall: number}} reply
 */
export function secondsToNextMinute(reply) {
  return 60 - (serverTime(reply) % 60);
}

/**
 * @param {string | null} date an HTTP date; `Date.parse` accepts many other texts
 */
function seconds(date) {
  const ms = /^[A-Z][a-z]+, .+ GMT$/.test(date ?? "") ? Date.parse(date ?? "") : NaN;
  return Number.isNaN(ms) ? null : ms / 1000;
}

/**
 * Return the error for a request without a response. Throws `failure` when it is something else: a deadline, an abort.
 * @param {unknown} failure
 * @param {string | null} [jobId]
 */
export function unreachableError(failure, jobId = null) {
  if (!(failure instanceof TransportFailure)) throw failure;
  const message = `the server cannot be reached: ${failure.message}`;
  const next = jobId ? "The job continues: use umrgen.job(jobId)." : undefined;
  const error = new errors.ConnectionFailed(message, { jobId, next, cause: failure.cause });
  error.sent = failure.sent;
  return error;
}

/**
 * Return whether the server does not know the path itself, rather than the job that the path names.
 * @param {unknown} error
 * @returns {error is errors.ApiError}
 */
export function isMissingEndpoint(error) {
  if (!(error instanceof errors.ApiError)) return false;
  const namesJob = error instanceof errors.JobNotFound && error.coded;
  return (error.status === 404 && !namesJob) || error.status === 405 || error.status === 501;
}
