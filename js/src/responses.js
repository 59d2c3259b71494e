// Interpreting responses: parsers of their bodies, which return null for a body of another form, and their errors.
import * as errors from "./errors.js";
import { parseStatus } from "./status.js";
import { ERROR_CODE, JOB_ID, printable, quoted } from "./text.js";

/** @import { Status } from "./status.js" */
/** @import { Reply } from "./transport.js" */

/** Bytes of the largest response. */
export const MAX_BODY = 1 << 20;
/** Bytes of the largest response about many jobs: a page of 200 jobs with the longest prompts has about 3 MiB. */
export const MAX_LIST = 4 << 20;
/** The most values in a response: each takes memory, however short it is in the body. */
const MAX_VALUES = 100_000;
/** Nested lists and objects: a deeper response could be parsed here, and then not be copied or printed. */
const MAX_DEPTH = 64;

// --- bodies ---

/**
 * Return the JSON in a body, or null when it has none, or has too many values to be a response.
 * @param {string} text
 */
export function parseJson(text) {
  let values = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if ((code === 0x2c || code === 0x5b || code === 0x7b) && ++values > MAX_VALUES) return null; // , [ {
  }
  try {
    const data = JSON.parse(text);
    return isDeep(data) ? null : data;
  } catch {
    return null;
  }
}

/** @param {unknown} data */
function isDeep(data) {
  /** @param {unknown[]} values */
  const nested = (values) => values.filter((value) => typeof value === "object" && value !== null);
  let level = nested([data]);
  for (let depth = 0; level.length; depth++) {
    if (depth >= MAX_DEPTH) return true;
    level = level.flatMap((value) => nested(Object.values(/** @type {object} */ (value))));
  }
  return false;
}

/**
 * Return the JSON object in a body, or null.
 * @param {string} text
 * @returns {Record<string, any> | null}
 */
export function parseObject(text) {
  const data = parseJson(text);
  return data && typeof data === "object" && !Array.isArray(data) ? data : null;
}

/**
 * The response to a submit. `warnings`: parts of the request that the server does not use.
 * @typedef {{jobId: string, warnings: readonly string[], raw: Record<string, any>}} SubmitReceipt
 */

/**
 * Parse the response to a submit. A job id that cannot be part of a path is not one.
 * @param {Record<string, any> | null} data
 * @returns {SubmitReceipt | null}
 */
export function parseReceipt(data) {
  const jobId = data?.job_id;
  if (!data || !isJobId(jobId)) return null;
  return { jobId, warnings: texts(data.warnings).map((text) => printable(text)), raw: data };
}

/**
 * @param {unknown} value
 * @returns {value is string}
 */
export function isJobId(value) {
  return typeof value === "string" && JOB_ID.test(value);
}

/**
 * @param {unknown} value
 * @returns {string[]}
 */
function texts(value) {
  return Array.isArray(value) ? value.filter((text) => typeof text === "string") : [];
}

/**
 * Return the statuses of the jobs in a list; an entry without an id and a state is left out.
 * @param {any[]} listed
 */
function statuses(listed) {
  const found = listed.map((job) => (isJobId(job?.job_id) ? parseStatus(job, job.job_id) : null));
  return found.filter((status) => status !== null);
}

/**
 * Parse the response to a batch call: the statuses that changed, and the ids that the server does not have.
 * @param {Record<string, any>} data
 */
export function parseBatch({ jobs, unknown, cursor }) {
  if (!Array.isArray(jobs)) return null;
  return { jobs: statuses(jobs), unknown: texts(unknown), cursor: typeof cursor === "string" ? cursor : "" };
}

/**
 * Parse a page of the list of jobs.
 * @param {Record<string, any>} data
 * @returns {{jobs: Status[], nextCursor: string | null} | null}
 */
export function parsePage({ jobs, next_cursor: cursor }) {
  if (!Array.isArray(jobs)) return null;
  return { jobs: statuses(jobs), nextCursor: typeof cursor === "string" ? cursor : null };
}

/**
 * Parse the response to an upload: the image's name, which is part of later requests, and its URL.
 * @param {Record<string, any>} data
 */
export function parseUpload({ filename, url }) {
  const usable = typeof filename === "string" && /^[^/\\]{1,255}$/.test(filename) && printable(filename) === filename;
  return usable ? { filename, url: typeof url === "string" ? url : "" } : null;
}

/**
 * Parse a template; null without a name and a request. `updatedAt`: in milliseconds since the epoch.
 * @param {any} data
 */
export function parseTemplate(data) {
  const { name, request, updated_at: updatedAt } = Object(data);
  const usable = typed(name, "") && typeof request === "object" && request !== null && !Array.isArray(request);
  if (!usable) return null;
  return { name: printable(name), request: /** @type {Record<string, any>} */ (request), updatedAt: typed(updatedAt, 0) };
}

/**
 * Parse the response to a verification. `distance`: bits of 256 in which the perceptual hashes differ; `createdAt` in
 * milliseconds since the epoch; `jobId`: of this key's job only; `watermark`: the payload in the pixels, as hex.
 * @param {Record<string, any>} data
 */
export function parseVerification(data) {
  const { made_here: madeHere, distance, created_at: createdAt, engine, job_id: jobId, watermark, manifest } = data;
  if (!["exact", "similar", "no"].includes(madeHere)) return null;
  const { present, valid, signer, trusted } = Object(manifest);
  return {
    madeHere: /** @type {"exact" | "similar" | "no"} */ (madeHere),
    distance: typed(distance, 0),
    createdAt: typed(createdAt, 0),
    engine: typed(engine, ""),
    jobId: JOB_ID.test(jobId) ? /** @type {string} */ (jobId) : null,
    watermark: typed(watermark, ""),
    manifest: { present: present === true, valid: typed(valid, true), signer: typed(signer, ""), trusted: trusted === true },
  };
}

/**
 * Return a value that has the type of `like`, text as one printable line; null for another.
 * @template {number | string | boolean} T
 * @param {any} value
 * @param {T} like
 * @returns {(T extends string ? string : T extends number ? number : boolean) | null}
 */
function typed(value, like) {
  if (typeof value !== typeof like) return null;
  return typeof value === "string" ? /** @type {any} */ (printable(value)) : value;
}

// --- the origin of an error response ---

const OUTPUT_CODES = ["forbidden_output", "output_not_found", "output_expired", "not_found", "invalid_request"];

/**
 * Return whether an UMRGEN server itself reports that it does not have the job; a gateway's 404 does not.
 * @param {{status: number, json: Record<string, any> | null}} reply
 */
export function reportsMissingJob({ status, json }) {
  if (status !== 404 || !json) return false;
  return json.code === "job_not_found" || (!Object.hasOwn(json, "code") && json.error === "Job not found");
}

/**
 * Return whether an UMRGEN server itself refuses an image: with its `code`, or as older servers without a body.
 * @param {number} status
 * @param {string} body
 */
export function reportsOutputError(status, body) {
  if (!body) return [400, 403, 404, 410].includes(status);
  return status >= 400 && OUTPUT_CODES.includes(parseObject(body)?.code);
}

// --- errors ---

/** @type {[string | number, typeof errors.ApiError][]} */
const kinds = [
  ["unauthorized", errors.Unauthorized],
  ["job_not_found", errors.JobNotFound],
  ["concurrent_limit", errors.ConcurrencyLimit],
  ["content_policy", errors.ContentPolicy],
  [401, errors.Unauthorized],
  [403, errors.Forbidden],
  [405, errors.Unsupported],
  [429, errors.RateLimited],
  [501, errors.Unsupported],
];
const KINDS = new Map(kinds);
/** The codes of the `error` texts that older servers send instead of a `code`. */
const OLDER_CODES = new Map([
  ["CONCURRENT_LIMIT", "concurrent_limit"],
  ["Job not found", "job_not_found"],
]);

/**
 * Return the error for an unexpected response: by its status code first, then by its body.
 * @param {Reply} reply
 * @param {string | null} [jobId]
 */
export function errorFrom(reply, jobId = null) {
  const { status, json } = reply;
  if (status >= 300 && status < 400) {
    const message = `the server redirects to another address (HTTP ${status}); the API key was not sent there`;
    const next = "If that is the right server, use it as the base URL.";
    return new errors.NotUmrgen(message, { status, jobId, next });
  }
  const error = errorFromBody(status, json ?? {}, jobId);
  if (status >= 400 && (json || !isFromGateway(reply, error))) return error;
  return new errors.NotUmrgen(`expected JSON, got ${describe(reply)} (HTTP ${status})`, { status, jobId });
}

/**
 * Return whether an error without JSON has a status by which an UMRGEN server always sends JSON.
 * @param {Reply} reply
 * @param {errors.ApiError} error
 */
function isFromGateway(reply, error) {
  if (error instanceof errors.Forbidden && isHtml(reply)) return true;
  return error instanceof errors.NotUmrgen || (error instanceof errors.InvalidRequest && reply.status !== 413);
}

/**
 * Return whether the body is an HTML page.
 * @param {{headers: Headers, text: string}} reply
 */
export function isHtml({ headers, text }) {
  return /^\s*</.test(text) || /html/.test(headers.get("content-type") ?? "");
}

/** @param {Reply} reply */
function describe(reply) {
  if (!reply.text) return "an empty response";
  return isHtml(reply) ? "an HTML page" : `the text ${quoted(reply.text.slice(0, 200), 60)}`;
}

/**
 * Return the error for the JSON of a response, by its `code`, otherwise by its status. A 404 without a code is not from
 * this API.
 * @param {number} status
 * @param {Record<string, unknown>} data
 * @param {string | null} jobId
 */
function errorFromBody(status, data, jobId) {
  const [message = ""] = texts([data.error, data.detail, data.message]);
  const coded = typeof data.code === "string" && ERROR_CODE.test(data.code);
  const code = coded ? String(data.code) : (OLDER_CODES.get(message) ?? "");
  const Kind = KINDS.get(code) ?? KINDS.get(status) ?? otherKind(status, code);
  const error = new Kind(`${printable(message) || Kind.defaultMessage} (HTTP ${status})`, {
    status,
    code,
    jobId: isJobId(data.job_id) ? data.job_id : jobId,
    next: Kind.next || (typeof data.next === "string" ? data.next : ""),
  });
  error.coded = coded;
  return error;
}

/**
 * @param {number} status
 * @param {string} code
 */
function otherKind(status, code) {
  if (isTransient(status)) return errors.ServerError;
  return status < 400 || (status === 404 && !code) ? errors.NotUmrgen : errors.InvalidRequest;
}

/**
 * Return whether a retry of the same request may succeed.
 * @param {number} status
 */
export function isTransient(status) {
  return (status >= 500 && status !== 501) || status === 408 || status === 425;
}

/**
 * Return whether the server does not know the path itself, rather than the job that the path names.
 * @param {unknown} error
 * @returns {error is errors.ApiError}
 */
export function isMissingEndpoint(error) {
  if (!(error instanceof errors.ApiError)) return false;
  const { status } = error;
  return (status === 404 && !(error instanceof errors.JobNotFound)) || status === 405 || status === 501;
}

// --- times ---

/**
 * Return the seconds of a `Retry-After` header (RFC 9110: a number or a date), or null without a valid one.
 *
 * A date is compared with the response's own `Date` header, so that a wrong clock on either side has no effect.
 * @param {{headers: Headers, wall: number}} reply
 */
export function retryAfter({ headers, wall }) {
  const text = headers.get("retry-after")?.trim() ?? "";
  if (/^\d{1,9}$/.test(text)) return Number(text);
  const then = httpDate(text);
  return then === null ? null : Math.max(0, then - serverTime({ headers, wall }));
}

/**
 * Return the time of a response in seconds since the epoch: its `Date` header, or else this machine's clock.
 * @param {{headers: Headers, wall: number}} reply
 */
export function serverTime({ headers, wall }) {
  return httpDate(headers.get("date")) ?? wall;
}

/**
 * Return the seconds until the server's clock begins its next minute, at which the first servers reset limits.
 * @param {{headers: Headers, wall: number}} reply
 */
export function secondsToNextMinute(reply) {
  return 60 - (serverTime(reply) % 60);
}

/**
 * @param {string | null} text an HTTP date; `Date.parse` accepts many other texts
 */
function httpDate(text) {
  const valid = /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} [12]\d{3} [0-9:]{8} GMT$/.test(text ?? "");
  const ms = valid ? Date.parse(text ?? "") : NaN;
  return Number.isNaN(ms) ? null : ms / 1000;
}
