// Waiting for one job: the interval between status calls, the meaning of a status, stalls.
import { RetryBudget } from "./context.js";
import { shortReason } from "./engine_error.js";
import { JobFailed, JobNotFound, JobStalled, OutputMissing, WaitTimeout } from "./errors.js";
import { API, RetryPolicy } from "./protocol.js";
import { reportsMissingJob, retryAfter } from "./responses.js";
import { parseStatus, progressKey } from "./status.js";
import { quoted } from "./text.js";

/** @import { CallContext } from "./context.js" */
/** @import { Status } from "./status.js" */
/** @import { Reply } from "./transport.js" */

/**
 * Return whether a long poll ran its full time, so that the next one may start immediately.
 * @param {Reply} reply
 */
export function longPollTimedOut(reply) {
  const seconds = appliedWait(reply);
  return 0 < seconds && seconds <= reply.elapsed * 1.1;
}

/**
 * Return the seconds of the server's `Preference-Applied` header; 0 when it does not support long polls.
 * @param {Reply} reply
 */
function appliedWait({ headers }) {
  return Number(/wait=(\d{1,4})/.exec(headers.get("preference-applied") ?? "")?.[1] ?? 0);
}

/**
 * Return the ETag of a response if a header can have it, or null.
 * @param {Reply} reply
 */
function sendableTag({ headers }) {
  return /^(W\/)?"[\x21\x23-\x7e]{0,200}"$/.exec(headers.get("etag") ?? "")?.[0] ?? null;
}

/** Waits for one job. The polling state (ETag, retry budgets, stall timer) is kept between calls. */
export class StatusPoller {
  /** Seconds until the next status call. */
  delay;
  /** @type {Status | null} */
  #status = null;
  #context;
  #jobId;
  #seen;
  #longPoll;
  #retryPolicy;
  /** @type {string | null} */
  #etag = null;
  #changes = 0;
  #changedAt;
  #queuedSince;
  /** @type {number | null} */
  #etaPollAt = null;
  #reportedStall = false;
  #reportedUnknown = false;

  /**
   * @param {CallContext} context
   * @param {string} jobId
   * @param {{seen?: boolean, longPoll?: boolean}} [options]
   */
  constructor(context, jobId, { seen = false, longPoll = true } = {}) {
    this.#context = context;
    this.#jobId = jobId;
    this.#seen = seen;
    this.#longPoll = longPoll;
    this.delay = Math.max(0, (context.deadline.statusDue ?? 0) - context.now);
    this.#retryPolicy = new RetryPolicy(context, jobId, new RetryBudget(context, context.options.patience), seen);
    this.#changedAt = context.runningTime;
    this.#queuedSince = context.now;
  }

  /** Whether the server has accepted this job or reported its status. */
  get seen() {
    return this.#seen;
  }

  /**
   * Return the job's status when it differs from the last one; with `untilOver`, its final status. Throws JobNotFound,
   * JobStalled (with `onStall: "raise"`), WaitTimeout and the errors of other responses.
   * @returns {Promise<Status>}
   */
  async nextChange(untilOver = false) {
    for (;;) {
      const before = this.#changes;
      const status = await this.poll(untilOver);
      if (status?.over || (status && this.#changes > before && !untilOver)) return status;
    }
  }

  /** Return the status of the completed job. Throws JobFailed, OutputMissing and the errors of `nextChange`. */
  async result() {
    let status = await this.#finalStatus();
    if (status.state === "completed" && !status.imageUrl) {
      // Poll again: an older server may report the state before it has found the file.
      this.delay = this.#context.options.runningInterval;
      this.#etag = null;
      status = await this.#finalStatus();
    }
    return requireCompleted(status);
  }

  async #finalStatus() {
    for (;;) {
      const status = await this.nextChange(!this.#context.options.follow);
      if (status.over) return status;
    }
  }

  /** Send one status call; return null when it got no status. The next one is due after `delay`. */
  async poll(untilOver = true) {
    const status = await this.#requestStatus(untilOver);
    if (status) this.#observe(status);
    return status;
  }

  /** @param {boolean} untilOver */
  async #requestStatus(untilOver) {
    const context = this.#context;
    const jobId = this.#jobId;
    // A long poll for any change needs the ETag of the known version; the first call is an ordinary one.
    const useLongPoll = this.#longPoll && (untilOver || this.#etag);
    const longPoll = useLongPoll ? context.longPollSeconds(this.#queueTimeLeft()) : 0;
    /** @type {Record<string, string>} */
    const headers = {};
    if (longPoll) headers.Prefer = `wait=${longPoll}`;
    if (this.#etag && !untilOver) headers["If-None-Match"] = this.#etag;
    let reply;
    try {
      const path = `${API}/status/${encodeURIComponent(jobId)}`;
      reply = await context.request(path, { headers }, { delay: this.delay, longPoll, jobId });
    } catch (failure) {
      this.delay = this.#retryPolicy.delayAfterFailure(failure);
      return null;
    }
    const unchanged = reply.status === 304 ? this.#status : null;
    const status = unchanged ?? (reply.status === 200 ? parseStatus(reply.json, jobId) : null);
    if (!status) {
      this.#handleError(reply);
      return null;
    }
    this.#seen = true;
    this.#retryPolicy.reset();
    if (!unchanged) this.#etag = sendableTag(reply);
    this.delay = this.#nextDelay(reply, status);
    return status;
  }

  /**
   * Set the delay before the retry; throw an error that ends the wait.
   *
   * The end of a job requires certainty: any other response than the server's own 404 may be from a gateway.
   * @param {Reply} reply
   */
  #handleError(reply) {
    if (reportsMissingJob(reply)) throw this.#notFoundError(reply);
    this.delay = this.#retryPolicy.delayAfterError(reply, this.#seen);
  }

  /** @param {Reply} reply */
  #notFoundError({ status, json }) {
    const jobId = this.#jobId;
    const gone = {
      message: `job ${jobId} no longer exists: it failed earlier, or the server was restarted`,
      code: "job_gone",
      next: "Submit it again; this server does not keep failed jobs.",
    };
    const { message, ...details } = this.#seen ? gone : { message: `the server has no job ${jobId}` };
    const error = new JobNotFound(message, { ...details, status, jobId });
    error.coded = !!json?.code;
    return error;
  }

  /**
   * Return the seconds until the next status call: as the server requests, or by the guide's intervals.
   * @param {Reply} reply
   * @param {Status} status
   */
  #nextDelay(reply, status) {
    const context = this.#context;
    const { queuedInterval, runningInterval } = context.options;
    if (longPollTimedOut(reply)) return 0;
    // This server reports changes: the next one may follow soon. A weak tag alone shows nothing: the first servers send
    // one, and have no long polls.
    const tag = reply.headers.get("etag") ?? "";
    const reportsChanges = tag.startsWith('"') || (tag && appliedWait(reply));
    if (reportsChanges && this.#isProgress(status)) return runningInterval / 8;
    const requested = retryAfter(reply) ?? (status.retryAfterMs === null ? null : status.retryAfterMs / 1000);
    if (requested !== null) return context.serverDelay(Math.max(requested, runningInterval / 2));
    const interval = context.withJitter(status.state === "queued" ? queuedInterval : runningInterval);
    return Math.max(interval, this.#etaDelay(status));
  }

  /**
   * Return whether the status has changed. An estimate is not compared: it counts down in every response.
   * @param {Status} status
   */
  #isProgress(status) {
    return !this.#status || progressKey(status) !== progressKey(this.#status);
  }

  /**
   * Return a longer delay during the first part of the expected time; 0 after it, or without an estimate. Older
   * servers repeat the average run time instead of counting it down, so only the first estimate is used.
   * @param {Status} status
   */
  #etaDelay({ etaSeconds }) {
    if (etaSeconds === null) return 0;
    const context = this.#context;
    const { etaInterval, etaShare, runningInterval } = context.options;
    this.#etaPollAt ??= context.now + etaShare * etaSeconds;
    // At least one more status call fits in before the deadline, however long the estimate.
    return Math.min(etaInterval, this.#etaPollAt - context.now, context.timeLeft - runningInterval);
  }

  /** Return the seconds that the job may still be queued; infinite without a limit. */
  #queueTimeLeft() {
    const { queueTimeout } = this.#context.options;
    const queued = !this.#status || this.#status.state === "queued";
    return queueTimeout === null || !queued ? Infinity : this.#queuedSince + queueTimeout - this.#context.now + 1;
  }

  /**
   * Store `status` and report changes. Throws JobStalled for a stall and WaitTimeout after `queueTimeout`.
   * @param {Status} status
   */
  #observe(status) {
    const context = this.#context;
    const jobId = this.#jobId;
    const { queueTimeout, stallAfter } = context.options;
    const changed = this.#isProgress(status);
    if (this.#status && status.state !== this.#status.state) this.#etaPollAt = null;
    this.#status = status;
    if (changed) {
      this.#changes++;
      this.#changedAt = context.runningTime;
      this.#reportedStall = false;
      context.notify("status", jobId, status.state, status.raw, status);
    }
    if (!/^(queued|running|completed|failed)$/.test(status.state) && !this.#reportedUnknown) {
      this.#reportedUnknown = true;
      context.notify("unknown_state", jobId, `unknown state ${quoted(status.state)}; waiting continues`);
    }
    if (status.state === "running" && context.runningTime - this.#changedAt >= stallAfter) this.#reportStall(status);
    if (status.state !== "queued") this.#queuedSince = context.now;
    else if (queueTimeout !== null && context.now - this.#queuedSince >= queueTimeout) {
      throw new WaitTimeout(`job ${jobId} is still queued after ${queueTimeout} s`, { code: "queue_timeout", jobId });
    }
  }

  /** @param {Status} status */
  #reportStall(status) {
    const context = this.#context;
    const jobId = this.#jobId;
    const idle = Math.round(context.runningTime - this.#changedAt);
    const message = `job ${jobId} is running, but has not changed for ${idle} s`;
    if (context.options.onStall === "raise") throw new JobStalled(message, { jobId });
    if (!this.#reportedStall) context.notify("stalled", jobId, message, {}, status);
    this.#reportedStall = true;
  }
}

/**
 * Return `status` if it is completed with an image. Throws JobFailed and OutputMissing.
 * @param {Status} status
 */
export function requireCompleted(status) {
  const { jobId, state, error, errorCode } = status;
  if (state === "failed") {
    const message = error ?? "the job failed; the server reported no reason";
    throw new JobFailed(shortReason(message), { code: errorCode ?? undefined, jobId });
  }
  if (!status.imageUrl) {
    throw new OutputMissing(`job ${jobId} is completed, but the server has no image of it`, { jobId });
  }
  return status;
}
