// Waiting for many jobs at once: in one call where the server has it, else one after the other.
import { lacksCall } from "./answers.js";
import { API, call, post } from "./calls.js";
import { JobNotFound, JobStalled } from "./errors.js";
import { Patience } from "./run.js";
import { parseStatus } from "./status.js";
import { wasHeld, Watch } from "./watch.js";

/** @import { UmrgenError } from "./errors.js" */
/** @import { Run } from "./run.js" */
/** @import { Status } from "./status.js" */

/** How a job ended: its last status, or why it cannot be known. @typedef {Status | UmrgenError} Outcome */

/** Jobs in one call, by the contract. */
const BATCH = 1000;

/** Seconds between two answers of a server that has news all the time: they come in bundles then. */
const GAP = 0.03;

/** The wait for many jobs. Which way it goes is found out from the server's first answer. */
export class WatchMany {
  /** The ids of the jobs that are not over. @type {string[]} */
  pending;
  #run;
  #patience;
  #together = true;
  /** @type {Set<string>} */
  #asked = new Set();
  #cursor = "";
  /** @type {Map<string, string>} */
  #states = new Map();
  #delay = 0;
  /** @type {Map<string, Watch>} */
  #single = new Map();
  /** @type {Map<string, number>} */
  #due = new Map();

  /**
   * @param {Run} run
   * @param {string[]} jobIds
   */
  constructor(run, jobIds) {
    this.#run = run;
    this.pending = [...new Set(jobIds)];
    this.#patience = new Patience(run, run.options.patience);
  }

  /**
   * The jobs that have ended since the last call, at least one, with their outcomes. Throws WaitTimeout,
   * ConnectionFailed, Unauthorized: what concerns them all.
   */
  async nextOver() {
    /** @type {Map<string, Outcome>} */
    let over = new Map();
    while (this.pending.length && !over.size) {
      over = await (this.#together ? this.#askTogether() : this.#askOne());
      this.pending = this.pending.filter((jobId) => !over.has(jobId));
    }
    return over;
  }

  // --- one call for all ---

  async #askTogether() {
    const run = this.#run;
    const names = this.pending.slice(0, BATCH);
    // Of new ones the server must tell what happened before, too.
    if (names.some((jobId) => !this.#asked.has(jobId))) this.#cursor = "";
    const how = { held: run.hold(), patience: this.#patience, delay: this.#delay, jobId: names[0] };
    let reply;
    try {
      reply = await call(run, `${API}/status`, post({ job_ids: names, since: this.#cursor }), how);
    } catch (error) {
      if (!lacksCall(error)) throw error;
    }
    const jobs = reply?.json.jobs;
    if (!reply || !Array.isArray(jobs)) return this.#partWays();
    for (const name of names) this.#asked.add(name);
    this.#cursor = typeof reply.json.cursor === "string" ? reply.json.cursor : "";
    // Some servers repeat themselves: only a state that we did not know is news.
    const news = jobs.filter((job) => this.#states.get(job?.job_id) !== job?.state);
    for (const job of news) this.#states.set(job.job_id, job.state);
    this.#delay = wasHeld(reply) || news.length ? GAP : run.vary(run.options.runningInterval);
    return outcomes(jobs, reply.json.unknown, new Set(names));
  }

  /** An older server: its jobs are looked at one by one, within its budget. */
  #partWays() {
    this.#together = false;
    this.#run.budget.limited = true;
    this.pending.forEach((jobId, index) => this.#due.set(jobId, this.#run.now + this.#turn(index)));
    return new Map();
  }

  // --- one call for each ---

  /** Look at the job whose turn it is. The oldest comes often, those behind it the less the further back. */
  async #askOne() {
    const run = this.#run;
    const due = (/** @type {string} */ jobId) => this.#due.get(jobId) ?? 0;
    const jobId = this.pending.reduce((one, other) => (due(other) < due(one) ? other : one));
    const watch = this.#single.get(jobId) ?? new Watch(run, jobId, { seen: true, hold: false });
    this.#single.set(jobId, watch);
    watch.delay = Math.max(0, due(jobId) - run.now);
    try {
      const status = await watch.look();
      if (status?.over) return new Map([[jobId, status]]);
    } catch (error) {
      if (error instanceof JobNotFound || error instanceof JobStalled) return new Map([[jobId, error]]);
      throw error;
    }
    this.#due.set(jobId, run.now + Math.max(watch.delay, this.#turn(this.pending.indexOf(jobId))));
    return new Map();
  }

  /**
   * Seconds between looks at a job that has `index` older ones before it.
   * @param {number} index
   */
  #turn(index) {
    const { queuedInterval, longestDelay } = this.#run.options;
    return Math.min(2 * queuedInterval * index, longestDelay);
  }
}

/**
 * The jobs of an answer that are over, or that the server does not know.
 * @param {any[]} jobs
 * @param {unknown} unknown
 * @param {Set<string>} asked
 */
function outcomes(jobs, unknown, asked) {
  /** @type {Map<string, Outcome>} */
  const over = new Map();
  for (const job of jobs) {
    const status = asked.has(job?.job_id) ? parseStatus(job, job.job_id) : null;
    if (status?.over) over.set(status.jobId, status);
  }
  for (const jobId of Array.isArray(unknown) ? unknown : []) {
    if (asked.has(jobId)) over.set(jobId, new JobNotFound(`the server knows no job ${jobId}`, { jobId }));
  }
  return over;
}
