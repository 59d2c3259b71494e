// Watching one job to its end: how often to look, what a status means, when to say that it stalls.
import { retryAfter } from "./answers.js";
import { API, Trouble } from "./calls.js";
import { JobFailed, JobNotFound, JobStalled, OutputMissing, WaitTimeout } from "./errors.js";
import { Patience } from "./run.js";
import { parseStatus, place } from "./status.js";

/** @import { Reply } from "./server.js" */
/** @import { Run } from "./run.js" */
/** @import { Status } from "./status.js" */

/**
 * Whether the server held a call for as long as it says: then asking again at once is how one waits there.
 * @param {Reply} reply
 */
export function wasHeld({ headers, elapsed }) {
  const seconds = Number(/wait=(\d{1,4})/.exec(headers.get("preference-applied") ?? "")?.[1] ?? 0);
  return 0 < seconds && seconds <= elapsed * 1.1;
}

/** The wait for one job. What one change taught (pace, patience, the stall clock), the next one knows. */
export class Watch {
  /** Seconds until the next look. */
  delay = 0;
  /** @type {Status | null} */
  #status = null;
  #run;
  #jobId;
  #seen;
  #hold;
  #trouble;
  /** @type {string | null} */
  #etag = null;
  #changes = 0;
  #changedAt;
  #queuedSince;
  /** @type {number | null} */
  #lookFrom = null;
  #toldStalled = false;
  #toldUnknown = false;

  /**
   * @param {Run} run
   * @param {string} jobId
   * @param {{seen?: boolean, hold?: boolean}} [how]
   */
  constructor(run, jobId, { seen = false, hold = true } = {}) {
    this.#run = run;
    this.#jobId = jobId;
    this.#seen = seen;
    this.#hold = hold;
    this.#trouble = new Trouble(run, jobId, new Patience(run, run.options.patience));
    this.#changedAt = this.#queuedSince = run.now;
  }

  /**
   * The job's status as soon as it differs from the last one; with `untilOver`, its end. Throws JobNotFound,
   * JobStalled (if asked for), WaitTimeout, and what the server refuses.
   * @returns {Promise<Status>}
   */
  async nextChange(untilOver = false) {
    for (;;) {
      const before = this.#changes;
      const status = await this.look(untilOver);
      if (status?.over || (status && this.#changes > before && !untilOver)) return status;
    }
  }

  /** The completed job. Throws JobFailed, OutputMissing and what `nextChange` throws. */
  async result() {
    let status = await this.#end();
    if (status.state === "completed" && !status.imageUrl) {
      // Once more: an older server may still be looking for the file.
      this.delay = this.#run.options.runningInterval;
      this.#etag = null;
      status = await this.#end();
    }
    return finished(status);
  }

  async #end() {
    for (;;) {
      const status = await this.nextChange(!this.#run.options.follow);
      if (status.over) return status;
    }
  }

  /** One request; null when it brought no status. The next is due after `delay`. */
  async look(untilOver = true) {
    const status = await this.#look(untilOver);
    if (status) this.#note(status);
    return status;
  }

  /** @param {boolean} untilOver */
  async #look(untilOver) {
    const run = this.#run;
    const jobId = this.#jobId;
    // For every change a server is held by the version we know; before we know one, a plain look.
    const held = this.#hold && (untilOver || this.#etag) ? run.hold(this.#queueLeft()) : 0;
    /** @type {Record<string, string>} */
    const headers = {};
    if (held) headers.Prefer = `wait=${held}`;
    if (this.#etag && !untilOver) headers["If-None-Match"] = this.#etag;
    let reply;
    try {
      const path = `${API}/status/${encodeURIComponent(jobId)}`;
      reply = await run.request(path, { headers }, { delay: this.delay, held, jobId });
    } catch (failure) {
      this.delay = this.#trouble.unanswered(failure);
      return null;
    }
    const unchanged = reply.status === 304 ? this.#status : null;
    const status = unchanged ?? (reply.status === 200 ? parseStatus(reply.json, jobId) : null);
    if (!status) {
      this.#refused(reply);
      return null;
    }
    this.#seen = true;
    this.#trouble.over();
    if (!unchanged) this.#etag = reply.headers.get("etag");
    this.delay = this.#pace(reply, status);
    return status;
  }

  /**
   * Bear what may pass, throw what will not.
   * @param {Reply} reply
   */
  #refused(reply) {
    try {
      this.delay = this.#trouble.refused(reply, this.#seen);
    } catch (error) {
      throw error instanceof JobNotFound ? this.#gone(error) : error;
    }
  }

  /** @param {JobNotFound} error */
  #gone({ status, next }) {
    const jobId = this.#jobId;
    const known = { status: status ?? undefined, jobId };
    if (!this.#seen) return new JobNotFound(`the server knows no job ${jobId}`, { ...known, next });
    const message = `job ${jobId} was there and is gone: it failed a while ago, or the server was restarted`;
    return new JobNotFound(message, { ...known, code: "job_gone", next: "Submit it again; this server forgets jobs." });
  }

  /**
   * Seconds until the next look: the server's word if it has one, else the guide's intervals.
   * @param {Reply} reply
   * @param {Status} status
   */
  #pace(reply, status) {
    const run = this.#run;
    const { queuedInterval, runningInterval } = run.options;
    if (wasHeld(reply)) return 0;
    // A change, on a server that tells of changes: the next may follow.
    if (reply.headers.has("etag") && this.#isNews(status)) return runningInterval / 8;
    const asked = retryAfter(reply) ?? (status.retryAfterMs === null ? null : status.retryAfterMs / 1000);
    if (asked !== null) return run.asked(Math.max(asked, runningInterval / 2));
    const interval = run.vary(status.state === "queued" ? queuedInterval : runningInterval);
    return Math.max(interval, this.#towardsEta(status));
  }

  /**
   * Of its place only: an estimate that counts down is new in every answer, and tells nothing.
   * @param {Status} status
   */
  #isNews(status) {
    return !this.#status || place(status) !== place(this.#status);
  }

  /**
   * Through the first part of the expected time in few sleeps; 0 after it, or without an estimate. Old servers
   * repeat the average run time instead of counting it down: the first word counts.
   * @param {Status} status
   */
  #towardsEta({ etaSeconds }) {
    if (etaSeconds === null) return 0;
    const run = this.#run;
    const { etaInterval, etaShare, runningInterval } = run.options;
    this.#lookFrom ??= run.now + etaShare * etaSeconds;
    // One more look fits in before the deadline, however long the estimate.
    return Math.min(etaInterval, this.#lookFrom - run.now, run.left - runningInterval);
  }

  /** What is left of the time that the job may spend queued. */
  #queueLeft() {
    const { queueTimeout } = this.#run.options;
    const queued = !this.#status || this.#status.state === "queued";
    return queueTimeout === null || !queued ? Infinity : this.#queuedSince + queueTimeout - this.#run.now + 1;
  }

  /**
   * Remember `status`, and tell what is new. Throws for a stall or a full queue budget.
   * @param {Status} status
   */
  #note(status) {
    const run = this.#run;
    const jobId = this.#jobId;
    const { queueTimeout, stallAfter } = run.options;
    const changed = this.#isNews(status);
    if (this.#status && status.state !== this.#status.state) this.#lookFrom = null;
    this.#status = status;
    if (changed) {
      this.#changes++;
      this.#changedAt = run.now;
      this.#toldStalled = false;
      run.tell("status", jobId, status.state, status.raw, status);
    }
    if (!/^(queued|running|completed|failed)$/.test(status.state) && !this.#toldUnknown) {
      this.#toldUnknown = true;
      run.tell("unknown_state", jobId, `unknown state ${JSON.stringify(status.state)}; waiting on`);
    }
    if (status.state === "running" && run.now - this.#changedAt >= stallAfter) this.#stalled(status);
    if (status.state !== "queued") this.#queuedSince = run.now;
    else if (queueTimeout !== null && run.now - this.#queuedSince >= queueTimeout) {
      throw new WaitTimeout(`job ${jobId} is still queued after ${queueTimeout} s`, { code: "queue_timeout", jobId });
    }
  }

  /** @param {Status} status */
  #stalled(status) {
    const run = this.#run;
    const jobId = this.#jobId;
    const idle = Math.round(run.now - this.#changedAt);
    const words = `job ${jobId} is running, and nothing has changed for ${idle} s`;
    if (run.options.onStall === "raise") throw new JobStalled(words, { jobId });
    if (!this.#toldStalled) run.tell("stalled", jobId, words, {}, status);
    this.#toldStalled = true;
  }
}

/**
 * `status`, if it is completed with an image. Throws JobFailed and OutputMissing.
 * @param {Status} status
 */
export function finished(status) {
  const { jobId, state, error, errorCode } = status;
  if (state === "failed") {
    const message = error ?? "the job failed, and the server does not say why";
    throw new JobFailed(message, { code: errorCode ?? undefined, jobId });
  }
  if (!status.imageUrl) {
    throw new OutputMissing(`job ${jobId} is completed, but the server has no image for it`, { jobId });
  }
  return status;
}
