// Calls that may be made again: what is borne of a server, and for how long.
import { failureOf, lacksCall, retryAfter, transient, unreachable } from "./answers.js";
import { RateLimited, Unsupported } from "./errors.js";
import { Patience } from "./run.js";

/** @import { Reply, Request } from "./server.js" */
/** @import { Run } from "./run.js" */

export const API = "/api/v1";

/** What may go wrong with a call that is made again and again, and when to make it next. */
export class Trouble {
  #garbage = 0;
  #run;
  #jobId;
  #patience;
  #limited;

  /**
   * @param {Run} run
   * @param {string | null} jobId
   * @param {Patience} patience
   */
  constructor(run, jobId, patience) {
    this.#run = run;
    this.#jobId = jobId;
    this.#patience = patience;
    this.#limited = new Patience(run, Infinity);
  }

  /** An answer made sense. */
  over() {
    this.#patience.good();
    this.#limited.good();
  }

  /**
   * Seconds until the next try after `failure`. Throws when patience has ended, and what is no failure to get
   * an answer.
   * @param {unknown} failure
   */
  unanswered(failure) {
    return this.#patience.bear(unreachable(failure, this.#jobId), null, this.#jobId);
  }

  /**
   * Seconds until the next try after an answer that is not what was asked for. Throws what will not pass.
   * @param {Reply} reply
   * @param {boolean} [understood] whether this server has made sense before; then it gets more patience
   */
  refused(reply, understood = false) {
    const jobId = this.#jobId;
    const error = failureOf(reply, jobId);
    if (error instanceof RateLimited) {
      return this.#limited.bear(error, limitedDelay(this.#run, reply, this.#limited), jobId);
    }
    if (transient(reply.status)) return this.#patience.bear(error, retryAfter(reply), jobId);
    const { garbageTries, runningInterval } = this.#run.options;
    if (reply.status !== 200 || !(understood || this.#garbage < garbageTries)) throw error;
    this.#garbage++; // a tunnel's page, or a cut-off answer
    return Math.max(this.#patience.bear(error, null, jobId), runningInterval);
  }
}

/**
 * After a 429: what the server asks for; if it names no time, enough for its window to move on. From then on
 * the client keeps to a budget of its own.
 * @param {Run} run
 * @param {{headers: Headers, wall: number}} reply
 * @param {Patience} limited
 */
export function limitedDelay(run, reply, limited) {
  const asked = retryAfter(reply);
  if (asked !== null) return asked;
  run.budget.limited = true;
  const { longestDelay, queuedInterval } = run.options;
  return Math.min(longestDelay, 2 * queuedInterval * 2 ** Math.min(limited.failures, 10));
}

/**
 * One call that may be repeated without harm: its answer, which has a JSON object.
 *
 * Tried again while the server is away, within `patience` (`submitPatience` when not given), and while it says
 * that it is asked too often. Throws ConnectionFailed, WaitTimeout and what it refuses.
 * @param {Run} run
 * @param {string} path
 * @param {Request} [request]
 * @param {{held?: number, patience?: Patience, delay?: number, jobId?: string | null}} [how]
 * @returns {Promise<Reply & {json: Record<string, any>}>}
 */
export async function call(run, path, request = {}, { held = 0, patience, delay = 0, jobId = null } = {}) {
  patience ??= new Patience(run, run.options.submitPatience);
  const trouble = new Trouble(run, jobId, patience);
  const headers = { ...request.headers, ...(held && { Prefer: `wait=${held}` }) };
  for (;;) {
    let reply;
    try {
      reply = await run.request(path, { ...request, headers }, { delay, held, jobId });
    } catch (failure) {
      delay = trouble.unanswered(failure);
      continue;
    }
    const { status, json } = reply;
    if (status >= 200 && status < 300 && json) {
      patience.good();
      return { ...reply, json };
    }
    delay = trouble.refused(reply);
  }
}

/**
 * `call`, of what older servers do not have. Throws Unsupported there.
 * @param {Run} run
 * @param {string} path
 * @param {Request} [request]
 * @param {{held?: number, patience?: Patience, jobId?: string | null}} [how]
 */
export async function ask(run, path, request, how) {
  try {
    return (await call(run, API + path, request, how)).json;
  } catch (error) {
    if (!lacksCall(error)) throw error;
    throw new Unsupported(`this server has no ${path}`, { status: error.status ?? undefined });
  }
}

/**
 * @param {unknown} data
 * @returns {{method: string, headers: Record<string, string>, body: string}}
 */
export function post(data) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) };
}
