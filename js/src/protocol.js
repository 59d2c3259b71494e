// Calls that are safe to repeat, and their retries.
import { RetryBudget } from "./context.js";
import { ConnectionFailed, RateLimited, Unsupported, WaitTimeout } from "./errors.js";
import { errorFrom, isMissingEndpoint, isTransient, retryAfter, secondsToNextMinute } from "./responses.js";
import { TransportFailure } from "./transport.js";

/** @import { CallContext } from "./context.js" */
/** @import { UmrgenError } from "./errors.js" */
/** @import { Reply, Request } from "./transport.js" */

export const API = "/api/v1";

/** Seconds between tries on a server whose rate limit was not reset at the start of a minute. */
const LIMITED_INTERVAL = 10;

/** Decides whether a failed call is retried, and after how long; remembers the last error for a timeout. */
export class RetryPolicy {
  #garbage = 0;
  /** @type {UmrgenError | null} */
  #lastError = null;
  #context;
  #jobId;
  #retries;
  #limited;
  #answered;

  /**
   * @param {CallContext} context
   * @param {string | null} jobId
   * @param {RetryBudget} retries
   * @param {boolean} [answered] whether the server has sent a valid response about this job
   */
  constructor(context, jobId, retries, answered = false) {
    this.#context = context;
    this.#jobId = jobId;
    this.#retries = retries;
    this.#limited = new RetryBudget(context, Infinity);
    this.#answered = answered;
  }

  /** Reset the budgets after a valid response. */
  reset() {
    this.#answered = true;
    this.#garbage = 0;
    this.#lastError = null;
    this.#retries.reset();
    this.#limited.reset();
  }

  /**
   * Return the seconds until the retry of a request without a response. Throws at the end of the budget, and every
   * other failure; instead of a WaitTimeout, the last error, unless the server has said that the job continues.
   * @param {unknown} failure
   */
  delayAfterFailure(failure) {
    if (failure instanceof WaitTimeout && !this.#answered) throw this.#lastError ?? failure;
    return this.#delay(this.#retries, unreachableError(failure, this.#jobId));
  }

  /**
   * Return the seconds until the retry after an error response, or an invalid one. Throws permanent errors.
   * @param {Reply} reply
   * @param {boolean} [seen] whether the server itself had another response before, so that none of a gateway's is permanent
   */
  delayAfterError(reply, seen = false) {
    const error = errorFrom(reply, this.#jobId);
    if (error instanceof RateLimited) {
      return this.#delay(this.#limited, error, rateLimitDelay(this.#context, reply, this.#limited));
    }
    if (isTransient(reply.status)) return this.#delay(this.#retries, error, retryAfter(reply));
    const { garbageTries, runningInterval } = this.#context.options;
    if (!seen && !(reply.status === 200 && this.#garbage < garbageTries)) throw error;
    this.#garbage++; // a gateway's page or error, or a truncated response
    return Math.max(this.#delay(this.#retries, error, retryAfter(reply)), runningInterval);
  }

  /**
   * @param {RetryBudget} budget
   * @param {UmrgenError} error
   * @param {number | null} [requested]
   */
  #delay(budget, error, requested = null) {
    this.#lastError = error;
    return budget.nextDelay(error, requested, this.#jobId);
  }
}

/**
 * Return the error for a request without a response. Throws `failure` when it is something else: a deadline, an abort.
 * @param {unknown} failure
 * @param {string | null} [jobId]
 */
export function unreachableError(failure, jobId = null) {
  if (!(failure instanceof TransportFailure)) throw failure;
  const next = failure.advice || (jobId ? "The job continues: use umrgen.job(jobId)." : undefined);
  return new ConnectionFailed(`the server cannot be reached: ${failure.message}`, { jobId, next });
}

/**
 * Return the delay after a 429: its `Retry-After`, or else the time until the server's limit may be reset. Without a
 * `Retry-After`, all calls of this client pause until then, and its request budget applies from now on.
 * @param {CallContext} context
 * @param {{headers: Headers, wall: number}} reply
 * @param {RetryBudget} limited
 */
export function rateLimitDelay(context, reply, limited) {
  const requested = retryAfter(reply);
  if (requested !== null) return requested;
  // After the first try, this server's minute is not the clock's.
  const delay = Math.min(secondsToNextMinute(reply), limited.failures ? LIMITED_INTERVAL : 60);
  context.budget.pause(context.now + delay);
  return delay;
}

/**
 * `limit`: bytes of the largest response. `answered`: the server has responded about this job. With `seen`, it has
 * responded to this call before: any other error response may be a gateway's, and is retried within `retries` too.
 * @typedef {{limit?: number, retries?: RetryBudget, jobId?: string | null, answered?: boolean, seen?: boolean}} CallSettings
 */

/**
 * Send a request that is safe to repeat; return its response, which has a JSON object.
 *
 * Retries while the server is unreachable or failing, within `retries` (`submitPatience` by default), and while it
 * responds with 429, until the deadline. Throws ConnectionFailed, WaitTimeout and the errors of other responses.
 * @param {CallContext} context
 * @param {string} path
 * @param {Request} [request]
 * @param {CallSettings & {longPoll?: number, delay?: number}} [options]
 * @returns {Promise<Reply & {json: Record<string, any>}>}
 */
export async function call(context, path, request = {}, { longPoll = 0, delay = 0, ...settings } = {}) {
  const { limit, jobId = null, answered = false, seen = false } = settings;
  const retries = settings.retries ?? new RetryBudget(context, context.options.submitPatience);
  const policy = new RetryPolicy(context, jobId, retries, answered || seen);
  const headers = { ...request.headers, ...(longPoll && { Prefer: `wait=${longPoll}` }) };
  for (;;) {
    let reply;
    try {
      reply = await context.request(path, { ...request, headers }, { delay, longPoll, jobId, limit });
    } catch (failure) {
      delay = policy.delayAfterFailure(failure);
      continue;
    }
    const { status, json } = reply;
    if (status >= 200 && status < 300 && json) {
      retries.reset();
      return { ...reply, json };
    }
    delay = policy.delayAfterError(reply, seen);
  }
}

/**
 * Send a request that older servers do not support. Throws Unsupported there; `next`: what to do then.
 * @param {CallContext} context
 * @param {string} path
 * @param {Request} [request]
 * @param {CallSettings & {next?: string}} [options]
 */
export async function callIfSupported(context, path, request, { next, ...options } = {}) {
  try {
    return (await call(context, API + path, request, options)).json;
  } catch (error) {
    if (!isMissingEndpoint(error)) throw error;
    const missing = `this server does not support ${path.replace(/\?.*/, "")}`;
    throw new Unsupported(missing, { status: error.status ?? undefined, next });
  }
}

/**
 * Return a POST request with a JSON body.
 * @param {unknown} data
 * @returns {{method: string, headers: Record<string, string>, body: string}}
 */
export function post(data) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) };
}
