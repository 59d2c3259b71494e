// A server, a key, and how patiently to wait.
import { ask } from "./calls.js";
import { systemClock } from "./clock.js";
import { hex } from "./images.js";
import { Job } from "./job.js";
import { WatchMany } from "./many.js";
import { DEFAULTS, withChanges } from "./options.js";
import { Budget, Patience, Run } from "./run.js";
import { Server } from "./server.js";
import { parseStatus } from "./status.js";
import { submit } from "./submission.js";

/** @import { Clock } from "./clock.js" */
/** @import { CallOptions } from "./job.js" */
/** @import { Options } from "./options.js" */
/** @import { Deadline, Event } from "./run.js" */
/** @import { Status } from "./status.js" */

/**
 * `fetch`, `clock` and `random` are for tests and unusual platforms.
 * @typedef {Partial<Options> & {
 *   baseUrl: string,
 *   apiKey?: string,
 *   onEvent?: (event: Event) => void,
 *   fetch?: typeof fetch,
 *   clock?: Clock,
 *   random?: () => number,
 * }} UmrgenOptions
 */

/**
 * What to draw. Further fields go into the request as they are, camel case as snake case.
 * @typedef {object} Picture
 * @property {string} [negative]
 * @property {number} [width]
 * @property {number} [height]
 * @property {number} [steps]
 * @property {number} [seed]
 * @property {{name: string, strength?: number}[]} [loras]
 * @property {string[]} [referenceImages] names from `uploadReference`
 * @property {number} [priority] among the jobs of this key; higher is sooner
 * @property {string} [webhookUrl]
 */

/**
 * `idempotencyKey` is made here when not given. With `waitForSlot`, a server that runs one job at a time is
 * waited for. `signal` and the deadline go on for the job's own calls.
 * @typedef {Picture & CallOptions & {
 *   idempotencyKey?: string,
 *   waitForSlot?: boolean,
 *   [field: string]: unknown,
 * }} SubmitOptions
 */

export class Umrgen {
  #server;
  #options;
  #budget;
  #random;
  #onEvent;

  /** @param {UmrgenOptions} options */
  constructor({ baseUrl, apiKey, onEvent, fetch, clock = systemClock, random = Math.random, ...options }) {
    this.#server = new Server(baseUrl, apiKey, clock, fetch);
    this.#options = withChanges(DEFAULTS, options);
    this.#budget = new Budget(this.#options.requestsAMinute);
    this.#random = random;
    this.#onEvent = onEvent;
  }

  get baseUrl() {
    return this.#server.baseUrl;
  }

  /**
   * Pick a job up by its id; asks nothing of the network.
   * @param {string} id
   */
  job(id) {
    return new Job(this.#begin, id);
  }

  /**
   * Make a job and give it at once. Throws InvalidRequest, Unauthorized, RateLimited, ConnectionFailed, ...
   * @param {string} prompt
   * @param {SubmitOptions} [options]
   */
  async submit(prompt, { idempotencyKey, waitForSlot = false, ...rest } = {}) {
    // Made before the first try, so that whatever is repeated is the same submit.
    const key = idempotencyKey ?? hex(crypto.getRandomValues(new Uint8Array(16)));
    /** @type {Record<string, unknown>} */
    const picture = { prompt };
    /** @type {Record<string, unknown>} */
    const given = {};
    for (const [name, value] of Object.entries(rest)) {
      if (Object.hasOwn(DEFAULTS, name) || name === "signal" || name === "onEvent") given[name] = value;
      // What was not said stays out, so that the server's own defaults hold.
      else if (value != null) picture[name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)] = value;
    }
    const run = this.#begin(given);
    const id = await submit(run, picture, key, waitForSlot);
    return new Job((call, deadline) => this.#begin({ ...given, ...call }, deadline), id, run);
  }

  /**
   * Submit, wait, download; give the verified image. One deadline spans all of it.
   * @param {string} prompt
   * @param {SubmitOptions} [options]
   */
  async generate(prompt, options) {
    const job = await this.submit(prompt, options);
    return job.image();
  }

  /**
   * The jobs in the order of their end, over one connection; each has its `outcome`. One deadline for all of them.
   * @param {Iterable<Job>} jobs
   * @param {CallOptions} [call]
   * @returns {AsyncGenerator<Job, void>}
   */
  async *asCompleted(jobs, call = {}) {
    const known = new Map(Array.from(jobs, (job) => [job.id, job]));
    const many = new WatchMany(this.#begin(call), [...known.keys()]);
    while (many.pending.length) {
      for (const [id, outcome] of await many.nextOver()) {
        const job = /** @type {Job} */ (known.get(id));
        job.outcome = outcome;
        yield job;
      }
    }
  }

  /**
   * A page of this key's jobs on the server, newest first. Throws Unsupported on older servers.
   * @param {CallOptions & {state?: string, limit?: number, cursor?: string | null}} [query]
   * @returns {Promise<{jobs: Status[], nextCursor: string | null}>}
   */
  async jobs({ state, limit = 50, cursor, ...call } = {}) {
    const asked = new URLSearchParams({ limit: String(limit) });
    if (state) asked.set("state", state);
    if (cursor) asked.set("cursor", cursor);
    const { jobs, next_cursor } = await ask(this.#begin(call), `/jobs?${asked}`);
    const told = Array.isArray(jobs) ? jobs.map((job) => parseStatus(job, job?.job_id)) : [];
    return { jobs: told.filter((status) => status !== null), nextCursor: next_cursor ?? null };
  }

  /**
   * What this server can do. Throws Unsupported on older servers.
   * @param {CallOptions} [call]
   */
  capabilities(call = {}) {
    return ask(this.#begin(call), "/capabilities");
  }

  /**
   * Give the server a PNG, JPEG or WebP to draw after; its `filename` goes into `referenceImages`.
   * @param {Blob} file
   * @param {CallOptions} [call]
   * @returns {Promise<{filename: string, url: string} & Record<string, any>>}
   */
  async uploadReference(file, call = {}) {
    const run = this.#begin(call);
    const body = new FormData();
    body.append("file", file);
    // Not repeated when it may have arrived: a session has room for few.
    const data = await ask(run, "/upload-reference", { method: "POST", body }, { patience: new Patience(run, 0) });
    return /** @type {{filename: string, url: string}} */ (data);
  }

  /**
   * @param {CallOptions} call
   * @param {Deadline} [deadline]
   */
  #begin = ({ signal, onEvent = this.#onEvent, ...changes }, deadline) =>
    new Run(this.#server, withChanges(this.#options, changes), this.#budget, this.#random, {
      signal,
      onEvent,
      deadline,
    });
}
