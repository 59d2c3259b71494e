// What all the requests of one call share: one deadline, one signal, the options, chance, and who is told.
import { WaitTimeout } from "./errors.js";

/** @import { UmrgenError } from "./errors.js" */
/** @import { Options } from "./options.js" */
/** @import { Reply, Request, Server } from "./server.js" */
/** @import { Status } from "./status.js" */

/**
 * Something worth telling while one waits.
 * @typedef {object} Event
 * @property {"submitted" | "status" | "stalled" | "retrying" | "slot" | "unknown_state" | "download" | "saved"} kind
 * @property {string | null} jobId
 * @property {string} message
 * @property {Record<string, any>} data
 * @property {Status} [status]
 */

/** How often one server is asked in a minute; limits once the server has shown that it needs it. */
export class Budget {
  limited = false;
  /** @type {number[]} */
  #times = [];
  #requests;

  /** @param {number} requests */
  constructor(requests) {
    this.#requests = requests;
  }

  /**
   * The time, `at` or later, at which one more request fits.
   * @param {number} at
   */
  reserve(at) {
    if (this.#times.length >= this.#requests) {
      const freed = /** @type {number} */ (this.#times.shift()) + 60;
      if (this.limited) at = Math.max(at, freed);
    }
    this.#times.push(at);
    return at;
  }
}

/**
 * When everything must be over. `passed` is set once that was said to the caller.
 * @typedef {{at: number, passed: boolean}} Deadline
 */

export class Run {
  /**
   * @param {Server} server
   * @param {Options} options
   * @param {Budget} budget
   * @param {() => number} random
   * @param {{signal?: AbortSignal, onEvent?: (event: Event) => void, deadline?: Deadline}} call
   */
  constructor(server, options, budget, random, { signal, onEvent, deadline }) {
    this.server = server;
    this.clock = server.clock;
    this.options = options;
    this.budget = budget;
    this.random = random;
    this.signal = signal;
    this.onEvent = onEvent;
    this.deadline = deadline ?? { at: this.now + (options.timeout ?? Infinity), passed: false };
  }

  get now() {
    return this.clock.now();
  }

  get left() {
    return this.deadline.at - this.now;
  }

  /**
   * @param {Event["kind"]} kind
   * @param {string | null} jobId
   * @param {string} [message]
   * @param {Record<string, any>} [data]
   * @param {Status} [status]
   */
  tell(kind, jobId, message = "", data = {}, status) {
    this.onEvent?.({ kind, jobId, message, data, status });
  }

  /**
   * A request after `delay` seconds, within the time left and the server's budget. `held` is how long the
   * server is asked to hold it. Throws WaitTimeout when no time would be left, and what `send` throws.
   * @param {string} path
   * @param {Request} request
   * @param {{delay?: number, held?: number, jobId?: string | null}} [how]
   * @returns {Promise<Reply>}
   */
  async request(path, request, { delay = 0, held = 0, jobId = null } = {}) {
    await this.pause(delay, jobId);
    const timeout = Math.min(this.left, this.options.requestTimeout + held);
    return this.server.send(path, request, timeout, this.signal);
  }

  /**
   * Sleep `delay` seconds, and longer if the budget says so. Throws WaitTimeout at once when no time would be left.
   * @param {number} delay
   * @param {string | null} jobId
   */
  async pause(delay, jobId) {
    this.signal?.throwIfAborted();
    if (delay < this.left) delay = this.budget.reserve(this.now + delay) - this.now;
    if (delay >= this.left) throw this.timedOut(jobId);
    if (delay > 0) await this.clock.sleep(delay, this.signal);
  }

  /** @param {string | null} jobId */
  timedOut(jobId) {
    const { timeout } = this.options;
    this.deadline.passed = true;
    if (jobId) return new WaitTimeout(`job ${jobId} is not over after ${timeout} s; it is still alive`, { jobId });
    return new WaitTimeout(`no job was made within ${timeout} s`, { next: "Try again, or allow more time." });
  }

  /**
   * Seconds to ask the server to hold a call: the option, cut to what is left and to `limit`.
   * @param {number} [limit]
   */
  hold(limit = Infinity) {
    const { wait } = this.options;
    const room = Math.min(this.left, limit);
    return room < wait ? Math.max(0, Math.min(wait, Math.trunc(room - 1))) : wait;
  }

  /**
   * `interval`, give or take the jitter.
   * @param {number} interval
   */
  vary(interval) {
    return interval * (1 + this.options.jitter * (2 * this.random() - 1));
  }

  /**
   * A delay, varied upwards only.
   * @param {number} seconds
   */
  atLeast(seconds) {
    return seconds * (1 + this.options.jitter * this.random());
  }

  /**
   * A delay the server asked for, to within reason.
   * @param {number} seconds
   */
  asked(seconds) {
    return this.atLeast(Math.min(seconds, this.options.longestDelay));
  }
}

/** How long failures in a row are borne, and how far apart the tries are. */
export class Patience {
  failures = 0;
  /** @type {number | null} */
  #since = null;
  #run;
  #seconds;

  /**
   * @param {Run} run
   * @param {number} seconds
   */
  constructor(run, seconds) {
    this.#run = run;
    this.#seconds = seconds;
  }

  good() {
    this.#since = null;
    this.failures = 0;
  }

  /**
   * Seconds until the next try. Throws `error` when it has gone on for too long.
   * @param {UmrgenError} error
   * @param {number | null} [asked] what the server asked for
   * @param {string | null} [jobId]
   */
  bear(error, asked = null, jobId = null) {
    const run = this.#run;
    const { firstBackoff, longestBackoff } = run.options;
    this.#since ??= run.now;
    const backoff = Math.min(longestBackoff, firstBackoff * 2 ** Math.min(this.failures++, 16));
    const delay = Math.max(run.asked(asked ?? 0), run.atLeast(backoff));
    if (run.now + delay - this.#since > this.#seconds) throw error;
    // The deadline comes first, and there is no job yet to speak of.
    if (!jobId && delay >= run.left) throw error;
    run.tell("retrying", jobId, error.message, { delay, code: error.code });
    return delay;
  }
}
