// Finding the job of a lost submit on the first servers, which have no idempotency keys.
//
// They run one job at a time, name the running one in a call of their page, and the older of their two public versions
// lists finished ones. The submit is recognised by its prompt and size, where they are listed, and by its time.
import { RetryBudget } from "./context.js";
import { ApiError, JobNotFound, RateLimited } from "./errors.js";
import { API, call, rateLimitDelay, unreachableError } from "./protocol.js";
import { errorFrom, isJobId, isTransient, parseJson, retryAfter, serverTime } from "./responses.js";
import { parseStatus } from "./status.js";

/** @import { CallContext } from "./context.js" */

/** The session of all jobs that were submitted with an API key. */
const SESSION = "session_id=sid_ext_gen";
/** Seconds by which the times of the two clocks may differ: the server's `Date` has whole seconds. */
const SLACK = 2;
/** Seconds after the start of a submit until which it may have reached the server. */
const LONGEST_SUBMIT = 60;
/** Listed jobs whose time is requested. */
const MOST_CANDIDATES = 5;
/** The sides that these servers do not clamp, in pixels. */
const SIDES = { min: 512, max: 2048 };

/**
 * A submit without a response. `sentAt` is its start on the client's clock, `knownIds` are the jobs of other submits.
 * @typedef {{request: Record<string, unknown>, sentAt: number, knownIds: Set<string>}} LostSubmit
 */

/**
 * Return the id of the job that a submit has created, or null when it is not certain.
 * @param {CallContext} context
 * @param {LostSubmit} lost
 */
export async function findLostJob(context, lost) {
  try {
    return await search(context, lost);
  } catch (error) {
    if (error instanceof ApiError) return null; // the response of a gateway, which says nothing about the job
    throw error;
  }
}

/**
 * @param {CallContext} context
 * @param {LostSubmit} lost
 * @returns {Promise<string | null>}
 */
async function search(context, lost) {
  const active = (await page(context, "/api/status"))?.active_job_id;
  if (active === undefined) return null;
  const known = new Set(lost.knownIds);
  if (isJobId(active) && !known.has(active)) {
    const created = await createdAt(context, active);
    const after = created === null ? NaN : created - lost.sentAt;
    if (after >= -SLACK && after <= LONGEST_SUBMIT + SLACK) return active;
    if (after < 0) known.add(active);
  }
  return findListed(context, { ...lost, knownIds: known });
}

/**
 * Return the id of the finished job whose prompt, size and time match.
 * @param {CallContext} context
 * @param {LostSubmit} lost
 * @returns {Promise<string | null>}
 */
async function findListed(context, { request, sentAt, knownIds }) {
  const listed = await history(context);
  const found = listed.filter((item) => matches(item, request) && !knownIds.has(item.job_id));
  const undated = [];
  for (const { job_id: jobId } of found.slice(0, MOST_CANDIDATES)) {
    const created = await createdAt(context, jobId);
    if (created === null) undated.push(jobId);
    else if (created >= sentAt - SLACK) return jobId;
  }
  // The server tells the time of a job until a minute after its end.
  return found.length === 1 && undated.length === 1 && context.now - sentAt > 60 ? undated[0] : null;
}

/**
 * @param {any} item
 * @param {Record<string, any>} request
 */
function matches(item, request) {
  if (!isJobId(item?.job_id) || item.prompt !== request.prompt) return false;
  return ["width", "height"].every((side) => {
    const requested = request[side];
    const clamped = !Number.isInteger(requested) || requested < SIDES.min || requested > SIDES.max;
    return clamped || item[side] === requested;
  });
}

/**
 * Return the status of a job that the server has forgotten, but lists as finished; null if it does not.
 * @param {CallContext} context
 * @param {string} jobId
 */
export async function listedImage(context, jobId) {
  const item = (await history(context)).find((item) => item?.job_id === jobId);
  const status = parseStatus({ state: "completed", image_url: item?.imageUrl }, jobId);
  return status?.imageUrl ? status : null;
}

/**
 * Return the finished jobs that the server lists; the newer version lists none.
 * @param {CallContext} context
 * @returns {Promise<any[]>}
 */
async function history(context) {
  const listed = await page(context, "/api/history");
  return Array.isArray(listed) ? listed : [];
}

/**
 * Return the JSON of a call of the server's page; null when this server does not have it.
 * @param {CallContext} context
 * @param {string} path
 * @returns {Promise<any>}
 */
async function page(context, path) {
  const retries = new RetryBudget(context, context.options.submitPatience);
  const limited = new RetryBudget(context, Infinity);
  for (let delay = 0; ;) {
    let reply;
    try {
      reply = await context.request(`${path}?${SESSION}`, {}, { delay });
    } catch (failure) {
      delay = retries.nextDelay(unreachableError(failure));
      continue;
    }
    const error = errorFrom(reply);
    if (error instanceof RateLimited) delay = limited.nextDelay(error, rateLimitDelay(context, reply, limited));
    else if (isTransient(reply.status)) delay = retries.nextDelay(error, retryAfter(reply));
    else return reply.status === 200 ? parseJson(reply.text) : null;
  }
}

/**
 * Return when a job was created, on the client's clock; null when the server does not tell it.
 * @param {CallContext} context
 * @param {string} jobId
 */
async function createdAt(context, jobId) {
  let reply;
  try {
    reply = await call(context, `${API}/status/${encodeURIComponent(jobId)}`, {}, { jobId });
  } catch (error) {
    if (error instanceof JobNotFound) return null;
    throw error;
  }
  const { queuedInterval, runningInterval } = context.options;
  const { state, created_at: created } = reply.json;
  context.deadline.statusDue = context.now + (state === "queued" ? queuedInterval : runningInterval);
  return typeof created === "number" ? context.now - (serverTime(reply) - created / 1000) : null;
}
