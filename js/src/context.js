// State that all requests of one call share: the deadline, the signal, the options, randomness, the event callback.
import { WaitTimeout } from "./errors.js";

/** @import { UmrgenError } from "./errors.js" */
/** @import { Options } from "./options.js" */
/** @import { Reply, Request, Transport } from "./transport.js" */
/** @import { Status } from "./status.js" */

/**
 * Something that happened during a wait, for the `onEvent` callback.
 * @typedef {object} Event
 * @property {"submitted" | "status" | "stalled" | "retrying" | "slot" | "unknown_state" | "warning" | "download" | "saved"} kind
 * @property {string | null} jobId
 * @property {string} message
 * @property {Record<string, any>} data
 * @property {Status} [status]
 */

/** Limits the requests to one server per minute. All are counted; the limit applies only after `limited` is set. */
export class RequestBudget {
  limited = false;
  /** @type {number[]} */
  #times = [];
  #pausedUntil = 0;
  #requests;

  /** @param {number} requests */
  constructor(requests) {
    this.#requests = requests;
  }

  /**
   * Send no request before `until`, and apply the limit from now on.
   * @param {number} until
   */
  pause(until) {
    this.#pausedUntil = Math.max(this.#pausedUntil, until);
    this.limited = true;
  }

  /**
   * Return the earliest time, not before `at`, at which one more request fits, and count it.
   * @param {number} at
   */
  reserve(at) {
    at = Math.max(at, this.#pausedUntil);
    if (this.#times.length >= this.#requests) {
      const freed = /** @type {number} */ (this.#times.shift()) + 60;
      if (this.limited) at = Math.max(at, freed);
    }
    this.#times.push(at);
    return at;
  }
}

/** Seconds after the end of a request's time until which its end is observed; later, this program did not run. */
const STANDSTILL = 2;
/** Seconds that a call has after a standstill in which its deadline passed: for a last status, and the image. */
const LAST_LOOK = 10;

/**
 * The time at which a call must end. `passed` is set once a timeout was thrown. `stoodStill`: seconds for which this
 * program did not run; `lookedLast`: the deadline was extended after it had passed in such a time. `statusDue` is the earliest time of the
 * first status call of a wait; later than now after another call asked for the job.
 * @typedef {{at: number, passed: boolean, stoodStill: number, lookedLast: boolean, statusDue?: number}} Deadline
 */

/** The context of one call. */
export class CallContext {
  /**
   * @param {Transport} transport
   * @param {Options} options
   * @param {RequestBudget} budget
   * @param {() => number} random
   * @param {{signal?: AbortSignal, onEvent?: (event: Event) => void, deadline?: Deadline}} call
   */
  constructor(transport, options, budget, random, { signal, onEvent, deadline }) {
    this.transport = transport;
    this.clock = transport.clock;
    this.options = options;
    this.budget = budget;
    this.random = random;
    this.signal = signal;
    this.onEvent = onEvent;
    const at = this.now + (options.timeout ?? Infinity);
    this.deadline = deadline ?? { at, passed: false, stoodStill: 0, lookedLast: false };
  }

  get now() {
    return this.clock.now();
  }

  /** The present time without the seconds for which this program did not run. */
  get runningTime() {
    return this.now - this.deadline.stoodStill;
  }

  /**
   * Run `work`, which ends within `seconds` unless this program is stopped (SIGSTOP, a tab that is asleep). When the
   * deadline passes in such a time, the call has LAST_LOOK seconds more, once.
   * @template T
   * @param {number} seconds
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  async observed(seconds, work) {
    const end = this.now + seconds;
    try {
      return await work();
    } finally {
      const late = this.now - end;
      if (late > STANDSTILL) this.#noteStandstill(late);
    }
  }

  /** @param {number} seconds */
  #noteStandstill(seconds) {
    const { deadline } = this;
    deadline.stoodStill += seconds;
    if (this.timeLeft <= 0 && !deadline.lookedLast) {
      deadline.lookedLast = true;
      deadline.at = this.now + LAST_LOOK;
    }
  }

  /** The seconds until the deadline. */
  get timeLeft() {
    return this.deadline.at - this.now;
  }

  /**
   * Call `onEvent`. An exception in it is reported on the console: it must not end a call that has created a job.
   * Without `onEvent`, a warning is shown there.
   * @param {Event["kind"]} kind
   * @param {string | null} jobId
   * @param {string} [message]
   * @param {Record<string, any>} [data]
   * @param {Status} [status]
   */
  notify(kind, jobId, message = "", data = {}, status) {
    if (!this.onEvent && kind === "warning") console.warn(`umrgen: ${message}`);
    try {
      this.onEvent?.({ kind, jobId, message, data, status });
    } catch (error) {
      console.error("umrgen: an exception in onEvent", error);
    }
  }

  /**
   * Send a request after `delay` seconds, within the time left and the request budget; `longPoll` seconds are added
   * to its timeout. Throws WaitTimeout when no time would be left, and the errors of `send`.
   * @param {string} path
   * @param {Request} request
   * @param {{delay?: number, longPoll?: number, jobId?: string | null, limit?: number}} [options]
   * @returns {Promise<Reply>}
   */
  async request(path, request, { delay = 0, longPoll = 0, jobId = null, limit } = {}) {
    await this.pause(delay, jobId);
    return this.send(path, request, { longPoll, limit });
  }

  /**
   * Send a request now; the rest as `request`.
   * @param {string} path
   * @param {Request} request
   * @param {{longPoll?: number, limit?: number}} [options]
   */
  send(path, request, { longPoll = 0, limit } = {}) {
    const timeout = Math.min(this.timeLeft, this.options.requestTimeout + longPoll);
    return this.observed(timeout, () => this.transport.send(path, request, timeout, this.signal, limit));
  }

  /**
   * Sleep `delay` seconds, or longer by the request budget. Throws WaitTimeout, without a sleep, when no time would be
   * left.
   * @param {number} delay
   * @param {string | null} jobId
   */
  async pause(delay, jobId) {
    this.signal?.throwIfAborted();
    if (delay < this.timeLeft) delay = this.budget.reserve(this.now + delay) - this.now;
    if (delay >= this.timeLeft) throw this.timeoutError(jobId);
    if (delay > 0) await this.observed(delay, () => this.clock.sleep(delay, this.signal));
  }

  /**
   * Return the error for a deadline that has passed.
   * @param {string | null} jobId
   */
  timeoutError(jobId) {
    const { stoodStill } = this.deadline;
    const note = stoodStill ? ` (for ${stoodStill.toFixed(0)} s of the time, this program was stopped or blocked)` : "";
    const within = `within ${this.options.timeout} s${note}`;
    this.deadline.passed = true;
    if (!jobId) {
      const next = "Try again, or set a longer timeout.";
      return new WaitTimeout(`no job was created ${within}`, { next });
    }
    return new WaitTimeout(`job ${jobId} did not finish ${within}; it continues on the server`, { jobId });
  }

  /**
   * Return the `wait` to request of a long poll: the option, capped by the time left and by `limit`.
   * @param {number} [limit]
   */
  longPollSeconds(limit = Infinity) {
    const { wait } = this.options;
    const available = Math.min(this.timeLeft, limit);
    return available < wait ? Math.max(0, Math.trunc(available - 1)) : wait;
  }

  /**
   * Return `interval`, varied at random by the jitter in both directions.
   * @param {number} interval
   */
  withJitter(interval) {
    return interval * (1 + this.options.jitter * (2 * this.random() - 1));
  }

  /**
   * Return a delay, varied upwards only.
   * @param {number} seconds
   */
  jitterUp(seconds) {
    return seconds * (1 + this.options.jitter * this.random());
  }

  /**
   * Return a delay that the server requested: capped, and varied upwards only.
   * @param {number} seconds
   */
  serverDelay(seconds) {
    return Math.min(this.jitterUp(seconds), this.options.longestDelay);
  }
}

/** Computes the backoff between retries, and throws when failures have continued for too long. */
export class RetryBudget {
  failures = 0;
  /** @type {number | null} */
  #since = null;
  #context;
  #seconds;

  /**
   * @param {CallContext} context
   * @param {number} seconds
   */
  constructor(context, seconds) {
    this.#context = context;
    this.#seconds = seconds;
  }

  /** Start the budget again after a success. */
  reset() {
    this.#since = null;
    this.failures = 0;
  }

  /**
   * Return the seconds until the next retry. Throws `error` after the budget.
   * @param {UmrgenError} error
   * @param {number | null} [requested] the delay that the server requested
   * @param {string | null} [jobId]
   */
  nextDelay(error, requested = null, jobId = null) {
    const context = this.#context;
    const { firstBackoff, longestBackoff } = context.options;
    this.#since ??= context.runningTime;
    const backoff = Math.min(longestBackoff, firstBackoff * 2 ** Math.min(this.failures++, 16));
    const delay = Math.max(context.serverDelay(requested ?? 0), context.jitterUp(backoff));
    if (context.runningTime + delay - this.#since > this.#seconds) throw error;
    // Before there is a job, its last error is more useful than a WaitTimeout.
    if (!jobId && delay >= context.timeLeft) throw error;
    context.notify("retrying", jobId, error.message, { delay, code: error.code });
    return delay;
  }
}
