// The client of a server.
import { systemClock } from "./clock.js";
import { CallContext, RequestBudget, RetryBudget } from "./context.js";
import { hex } from "./images.js";
import { Job } from "./job.js";
import { DEFAULTS, withChanges } from "./options.js";
import { callIfSupported } from "./protocol.js";
import { parseStatus } from "./status.js";
import { submit } from "./submit.js";
import { Transport } from "./transport.js";
import { BatchPoller } from "./wait_many.js";

/** @import { Clock } from "./clock.js" */
/** @import { CallOptions } from "./job.js" */
/** @import { Options } from "./options.js" */
/** @import { Deadline, Event } from "./context.js" */
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
 * The parameters of an image. Other fields are sent too; names in camel case are converted to snake case.
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
 * By default, a new `idempotencyKey` is generated. With `waitForSlot`, `submit` waits while the server responds that
 * the key has too many jobs. `signal` and the deadline apply to the calls of the job too.
 * @typedef {Picture & CallOptions & {
 *   idempotencyKey?: string,
 *   waitForSlot?: boolean,
 *   [field: string]: unknown,
 * }} SubmitOptions
 */

/** A client of one server, with one API key. */
export class Umrgen {
  #transport;
  #options;
  #budget;
  #random;
  #onEvent;

  /** @param {UmrgenOptions} options */
  constructor({ baseUrl, apiKey, onEvent, fetch, clock = systemClock, random = Math.random, ...options }) {
    this.#transport = new Transport(baseUrl, apiKey, clock, fetch);
    this.#options = withChanges(DEFAULTS, options);
    this.#budget = new RequestBudget(this.#options.requestsAMinute);
    this.#random = random;
    this.#onEvent = onEvent;
  }

  /** The address of the server. */
  get baseUrl() {
    return this.#transport.baseUrl;
  }

  /**
   * Return an existing job by its id; sends no request. Throws UmrgenError for an invalid id.
   * @param {string} id
   */
  job(id) {
    return new Job(this.#newContext, id);
  }

  /**
   * Create a job and return it without waiting for it. Throws InvalidRequest, Unauthorized, RateLimited, ConnectionFailed, ...
   * @param {string} prompt
   * @param {SubmitOptions} [options]
   */
  async submit(prompt, { idempotencyKey, waitForSlot = false, ...rest } = {}) {
    // Generated before the first attempt, so that all attempts have the same key.
    const key = idempotencyKey ?? hex(crypto.getRandomValues(new Uint8Array(16)));
    /** @type {Record<string, unknown>} */
    const request = { prompt };
    /** @type {Record<string, unknown>} */
    const callOptions = {};
    for (const [name, value] of Object.entries(rest)) {
      if (Object.hasOwn(DEFAULTS, name) || name === "signal" || name === "onEvent") callOptions[name] = value;
      // Without undefined fields, so that the server's defaults apply.
      else if (value != null) request[name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)] = value;
    }
    const context = this.#newContext(callOptions);
    const id = await submit(context, request, key, waitForSlot);
    return new Job((call, deadline) => this.#newContext({ ...callOptions, ...call }, deadline), id, context);
  }

  /**
   * Submit, wait and download; return the verified image. One deadline applies to all of it.
   * @param {string} prompt
   * @param {SubmitOptions} [options]
   */
  async generate(prompt, options) {
    const job = await this.submit(prompt, options);
    return job.image();
  }

  /**
   * Yield the jobs in the order in which they end, each with its `outcome`, by batch calls. One deadline applies to
   * all.
   * @param {Iterable<Job>} jobs
   * @param {CallOptions} [call]
   * @returns {AsyncGenerator<Job, void>}
   */
  async *asCompleted(jobs, call = {}) {
    const byId = new Map(Array.from(jobs, (job) => [job.id, job]));
    const poller = new BatchPoller(this.#newContext(call), [...byId.keys()]);
    while (poller.pending.length) {
      for (const [id, outcome] of await poller.nextFinished()) {
        const job = /** @type {Job} */ (byId.get(id));
        job.outcome = outcome;
        yield job;
      }
    }
  }

  /**
   * Return a page of this key's jobs, newest first. Throws Unsupported on older servers.
   * @param {CallOptions & {state?: string, limit?: number, cursor?: string | null}} [query]
   * @returns {Promise<{jobs: Status[], nextCursor: string | null}>}
   */
  async jobs({ state, limit = 50, cursor, ...call } = {}) {
    const query = new URLSearchParams({ limit: String(limit) });
    if (state) query.set("state", state);
    if (cursor) query.set("cursor", cursor);
    const { jobs, next_cursor } = await callIfSupported(this.#newContext(call), `/jobs?${query}`);
    const statuses = Array.isArray(jobs) ? jobs.map((job) => parseStatus(job, job?.job_id)) : [];
    return { jobs: statuses.filter((status) => status !== null), nextCursor: next_cursor ?? null };
  }

  /**
   * Return the capabilities of the server. Throws Unsupported on older servers.
   * @param {CallOptions} [call]
   */
  capabilities(call = {}) {
    return callIfSupported(this.#newContext(call), "/capabilities");
  }

  /**
   * Upload a reference image (PNG, JPEG or WebP); its `filename` is for `referenceImages`.
   * @param {Blob} file
   * @param {CallOptions} [call]
   * @returns {Promise<{filename: string, url: string} & Record<string, any>>}
   */
  async uploadReference(file, call = {}) {
    const context = this.#newContext(call);
    const body = new FormData();
    body.append("file", file);
    // Not repeated when it may have reached the server: a session may hold only a few uploads.
    const noRetries = { retries: new RetryBudget(context, 0) };
    const data = await callIfSupported(context, "/upload-reference", { method: "POST", body }, noRetries);
    return /** @type {{filename: string, url: string}} */ (data);
  }

  /**
   * @param {CallOptions} call
   * @param {Deadline} [deadline]
   */
  #newContext = ({ signal, onEvent = this.#onEvent, ...changes }, deadline) =>
    new CallContext(this.#transport, withChanges(this.#options, changes), this.#budget, this.#random, {
      signal,
      onEvent,
      deadline,
    });
}
