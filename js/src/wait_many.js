// Waiting for many jobs: by batch calls where the server supports them, otherwise by one call per job.
import { RetryBudget } from "./context.js";
import { JobNotFound, JobStalled, NotUmrgen } from "./errors.js";
import { API, call, post } from "./protocol.js";
import { isMissingEndpoint, MAX_LIST, parseBatch } from "./responses.js";
import { longPollTimedOut, StatusPoller } from "./wait.js";

/** @import { CallContext } from "./context.js" */
/** @import { UmrgenError } from "./errors.js" */
/** @import { Status } from "./status.js" */

/** How a job ended: its final status, or the error that makes it unknown. @typedef {Status | UmrgenError} Outcome */

/** Jobs per batch call (contract). */
const MAX_BATCH = 1000;

/** Seconds between batch calls to a server whose jobs change all the time, so that one response has several changes. */
const BATCH_GAP = 0.03;

/** Waits for many jobs. The server's first response decides between batch calls and single status calls. */
export class BatchPoller {
  /** The ids of the jobs that are not over. @type {string[]} */
  pending;
  #context;
  #retries;
  #useBatch = true;
  #answered;
  /** @type {Set<string>} */
  #requested = new Set();
  #cursor = "";
  /** @type {Map<string, string>} */
  #states = new Map();
  #delay = 0;
  /** @type {Map<string, StatusPoller>} */
  #pollers = new Map();
  /** @type {Map<string, number>} */
  #due = new Map();

  /**
   * @param {CallContext} context
   * @param {string[]} jobIds
   * @param {boolean} [seen] whether the server has accepted one of these jobs before
   */
  constructor(context, jobIds, seen = false) {
    this.#context = context;
    this.pending = [...new Set(jobIds)];
    this.#answered = seen;
    this.#retries = new RetryBudget(context, context.options.patience);
  }

  /**
   * Return the outcomes of the jobs that have ended since the last call, at least one. Throws errors that concern all
   * jobs: WaitTimeout, ConnectionFailed, Unauthorized.
   */
  async nextFinished() {
    /** @type {Map<string, Outcome>} */
    let finished = new Map();
    while (this.pending.length && !finished.size) {
      finished = await (this.#useBatch ? this.#pollBatch() : this.#pollNext());
      this.pending = this.pending.filter((jobId) => !finished.has(jobId));
    }
    return finished;
  }

  // --- batch calls ---

  async #pollBatch() {
    const context = this.#context;
    const jobIds = this.pending.slice(0, MAX_BATCH);
    // For new jobs, the response must include earlier changes.
    if (jobIds.some((jobId) => !this.#requested.has(jobId))) this.#cursor = "";
    const options = {
      longPoll: context.longPollSeconds(),
      retries: this.#retries,
      delay: this.#delay,
      jobId: jobIds[0],
      limit: MAX_LIST,
      answered: this.#answered,
      seen: this.#requested.size > 0,
    };
    let reply;
    try {
      reply = await call(context, `${API}/status`, post({ job_ids: jobIds, since: this.#cursor }), options);
    } catch (error) {
      if (!isMissingEndpoint(error)) throw error;
    }
    const batch = reply && parseBatch(reply.json);
    if (!reply || !batch) return this.#useSingleCalls();
    this.#answered = true;
    for (const jobId of jobIds) this.#requested.add(jobId);
    this.#cursor = batch.cursor;
    // Some servers repeat known states.
    const changed = batch.jobs.filter(({ jobId, state }) => this.#states.get(jobId) !== state);
    for (const { jobId, state } of changed) this.#states.set(jobId, state);
    const pollNow = longPollTimedOut(reply) || changed.length;
    this.#delay = pollNow ? BATCH_GAP : context.withJitter(context.options.runningInterval);
    return outcomes(batch, new Set(jobIds));
  }

  /** Poll each job by its own calls, within the request budget: this is an older server. */
  #useSingleCalls() {
    this.#useBatch = false;
    this.#context.budget.limited = true;
    this.pending.forEach((jobId, index) => this.#due.set(jobId, this.#context.runningTime + this.#interval(index)));
    return new Map();
  }

  // --- one call per job ---

  /** Poll the job that is due first. The oldest job is polled most often, newer ones less the newer they are. */
  async #pollNext() {
    const context = this.#context;
    const due = (/** @type {string} */ jobId) => this.#due.get(jobId) ?? 0;
    const jobId = this.pending.reduce((one, other) => (due(other) < due(one) ? other : one));
    const poller = this.#pollers.get(jobId) ?? new StatusPoller(context, jobId, { seen: true, longPoll: false });
    this.#pollers.set(jobId, poller);
    poller.delay = Math.max(0, due(jobId) - context.runningTime);
    try {
      const status = await poller.poll();
      if (status?.over) return new Map([[jobId, status]]);
    } catch (error) {
      if ([JobNotFound, JobStalled, NotUmrgen].some((Kind) => error instanceof Kind)) return new Map([[jobId, /** @type {UmrgenError} */ (error)]]);
      throw error;
    }
    this.#due.set(jobId, context.runningTime + Math.max(poller.delay, this.#interval(this.pending.indexOf(jobId))));
    return new Map();
  }

  /**
   * Return the seconds between status calls for a job with `index` older ones before it.
   * @param {number} index
   */
  #interval(index) {
    const { queuedInterval, longestDelay } = this.#context.options;
    return Math.min(2 * queuedInterval * index, longestDelay);
  }
}

/**
 * Return the outcomes of the jobs in a response that are over, or that the server does not have.
 * @param {{jobs: Status[], unknown: string[]}} batch
 * @param {Set<string>} requested
 */
function outcomes({ jobs, unknown }, requested) {
  /** @type {Map<string, Outcome>} */
  const found = new Map();
  for (const status of jobs) if (status.over && requested.has(status.jobId)) found.set(status.jobId, status);
  for (const jobId of unknown.filter((id) => requested.has(id))) {
    const error = new JobNotFound(`the server has no job ${jobId}`, { jobId });
    error.coded = true;
    found.set(jobId, error);
  }
  return found;
}
