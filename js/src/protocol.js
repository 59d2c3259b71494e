// Calls that are safe to repeat, and their retries.
import { RetryBudget } from "./context.js";
import { RateLimited, Unsupported } from "./errors.js";
import { errorFrom, isMissingEndpoint, isTransient, retryAfter, secondsToNextMinute, unreachableError } from "./responses.js";

/** @import { CallContext } from "./context.js" */
/** @import { Reply, Request } from "./transport.js" */

export const API = "/api/v1";

/** Seconds between tries on a server whose rate limit was not reset at the start of a minute. */
const LIMITED_INTERVAL = 10;

/** Decides whether a failed call is retried, and after how long. */
export class RetryPolicy {
  #garbage = 0;
  #context;
  #jobId;
  #retries;
  #limited;

  /**
   * @param {CallContext} context
   * @param {string | null} jobId
   * @param {RetryBudget} retries
   */
  constructor(context, jobId, retries) {
    this.#context = context;
    this.#jobId = jobId;
    this.#retries = retries;
    this.#limited = new RetryBudget(context, Infinity);
  }

  /** Reset the budgets after a valid response. */
  reset() {
    this.#retries.reset();
    this.#limited.reset();
  }

  /**
   * Return the seconds until the retry of a request without a response. Throws at the end of the budget, and every
   * other failure.
   * @param {unknown} failure
   */
  delayAfterFailure(failure) {
    return this.#retries.nextDelay(unreachableError(failure, this.#jobId), null, this.#jobId);
  }

  /**
   * Return the seconds until the retry after an unexpected response. Throws permanent errors.
   * @param {Reply} reply
   * @param {boolean} [seen] whether this server has sent a valid response before; then it gets more retries
   */
  delayAfterError(reply, seen = false) {
    const jobId = this.#jobId;
    const error = errorFrom(reply, jobId);
    if (error instanceof RateLimited) {
      return this.#limited.nextDelay(error, rateLimitDelay(this.#context, reply, this.#limited), jobId);
    }
    if (isTransient(reply.status)) return this.#retries.nextDelay(error, retryAfter(reply), jobId);
    const { garbageTries, runningInterval } = this.#context.options;
    if (reply.status !== 200 || !(seen || this.#garbage < garbageTries)) throw error;
    this.#garbage++; // a tunnel's page or a truncated response
    return Math.max(this.#retries.nextDelay(error, null, jobId), runningInterval);
  }
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
 * Send a request that is safe to repeat; return its response, which has a JSON object.
 *
 * Retries while the server is unreachable or failing, within `retries` (`submitPatience` by default), and while it
 * responds with 429, until the deadline. Throws ConnectionFailed, WaitTimeout and the errors of other responses.
 * @param {CallContext} context
 * @param {string} path
 * @param {Request} [request]
 * @param {{longPoll?: number, retries?: RetryBudget, delay?: number, jobId?: string | null}} [options]
 * @returns {Promise<Reply & {json: Record<string, any>}>}
 */
export async function call(context, path, request = {}, { longPoll = 0, retries, delay = 0, jobId = null } = {}) {
  retries ??= new RetryBudget(context, context.options.submitPatience);
  const policy = new RetryPolicy(context, jobId, retries);
  const headers = { ...request.headers, ...(longPoll && { Prefer: `wait=${longPoll}` }) };
  for (;;) {
    let reply;
    try {
      reply = await context.request(path, { ...request, headers }, { delay, longPoll, jobId });
    } catch (failure) {
      delay = policy.delayAfterFailure(failure);
      continue;
    }
    const { status, json } = reply;
    if (status >= 200 && status < 300 && json) {
      retries.reset();
      return { ...reply, json };
    }
    delay = policy.delayAfterError(reply);
  }
}

/**
 * Send a request that older servers do not support. Throws Unsupported there.
 * @param {CallContext} context
 * @param {string} path
 * @param {Request} [request]
 * @param {{longPoll?: number, retries?: RetryBudget, jobId?: string | null}} [options]
 */
export async function callIfSupported(context, path, request, options) {
  try {
    return (await call(context, API + path, request, options)).json;
  } catch (error) {
    if (!isMissingEndpoint(error)) throw error;
    throw new Unsupported(`this server does not support ${path}`, { status: error.status ?? undefined });
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
