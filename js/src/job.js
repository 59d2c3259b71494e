// One job on one server.
import { callIfSupported, post } from "./protocol.js";
import { JobNotFound, OutputForbidden, OutputMissing, UmrgenError } from "./errors.js";
import { events } from "./events.js";
import { listedImage } from "./lost_submit.js";
import { sizeWarnings } from "./older_servers.js";
import { fetchImage, MemorySink } from "./retrieval.js";
import { parseStatus } from "./status.js";
import { JOB_ID, quoted } from "./text.js";
import { requireCompleted, StatusPoller } from "./wait.js";

/** @import { Sink } from "./retrieval.js" */
/** @import { ImageFacts } from "./images.js" */
/** @import { Outcome } from "./wait_many.js" */
/** @import { Options } from "./options.js" */
/** @import { Deadline, Event, CallContext } from "./context.js" */
/** @import { Status } from "./status.js" */

/**
 * The options of a call: a signal that ends it, an event callback, and any of the client's options for this call.
 * @typedef {Partial<Options> & {signal?: AbortSignal, onEvent?: (event: Event) => void}} CallOptions
 */

/** @typedef {(call: CallOptions, deadline?: Deadline) => CallContext} ContextFactory */

/**
 * A verified image.
 * @typedef {ImageFacts & {
 *   bytes: Uint8Array<ArrayBuffer>,
 *   jobId: string,
 *   seed: number | null,
 *   engine: string | null,
 * }} Image
 */

/**
 * The submit of a job: its context, whose deadline and signal apply to later calls, the request as it was sent, and the
 * parts of it that the server does not use.
 * @typedef {{context: CallContext, request: Record<string, any>, warnings: readonly string[]}} Submit
 */

export const NO_DELETION = "Jobs of this server cannot be deleted: its images end with its own retention.";
const NO_FAVORITES = "Save the image: a server without favorites may delete it.";

/** One job on one server. */
export class Job {
  /** How the job ended, once known: its final status, or the error that makes it unknown. @type {Outcome | null} */
  outcome = null;
  #contextFactory;
  #seen;
  #submit;
  #request;

  /**
   * Called by `Umrgen.submit` and `Umrgen.job`.
   * @param {ContextFactory} contextFactory
   * @param {string} id
   * @param {Submit} [submit]
   */
  constructor(contextFactory, id, submit) {
    if (typeof id !== "string" || !JOB_ID.test(id)) {
      throw new UmrgenError(`${quoted(id)} is not a job id`, {
        code: "bad_job_id",
        next: "Use an id from submit, such as ext_0123.",
      });
    }
    this.id = id;
    /** The parts of the request that the server does not use. */
    this.warnings = submit?.warnings ?? [];
    this.#contextFactory = contextFactory;
    this.#submit = submit?.context;
    this.#request = submit?.request ?? {};
    this.#seen = !!submit;
  }

  /** Whether the server has accepted this job or reported its status, to this object. */
  get seen() {
    return this.#seen;
  }

  /** Yield each change of the job's status, until it is over. */
  [Symbol.asyncIterator]() {
    return this.watch();
  }

  /**
   * Yield each change of the job's status, until it is over.
   * @param {CallOptions} [call]
   * @returns {AsyncGenerator<Status, void>}
   */
  async *watch(call) {
    const poller = this.#poller(this.#newContext(call));
    for (;;) {
      const status = await this.#run(poller, poller.nextChange());
      if (status.over) this.outcome = status;
      yield status;
      if (status.over) return;
    }
  }

  /**
   * Yield the events of the job: `status`, `progress`, and with `preview` small images during the drawing. Throws Unsupported on older servers.
   * @param {CallOptions & {preview?: boolean}} [call]
   */
  events({ preview = false, ...call } = {}) {
    return events(this.#newContext(call), this.id, preview, this.#seen);
  }

  /**
   * Return the current status of the job.
   * @param {CallOptions} [call]
   */
  async status(call) {
    const context = this.#newContext(call);
    context.options = { ...context.options, wait: 0, patience: call?.patience ?? context.options.submitPatience };
    const poller = this.#poller(context);
    return this.#run(poller, poller.nextChange());
  }

  /**
   * Wait until the job is completed; return its status. Throws JobFailed, WaitTimeout, OutputMissing, ...
   * @param {CallOptions} [call]
   */
  async wait(call) {
    return this.#wait(this.#newContext(call));
  }

  /**
   * Wait until the job is completed; return its verified image; of several, the one with `index`.
   * @param {CallOptions & {index?: number}} [call]
   * @returns {Promise<Image>}
   */
  async image({ index = 0, ...call } = {}) {
    return this.download(new MemorySink(), { index, ...call });
  }

  /**
   * As `image`, with a sink of the caller.
   * @param {Sink} sink
   * @param {CallOptions & {index?: number}} [call]
   * @returns {Promise<Image>}
   */
  async download(sink, { index = 0, ...call } = {}) {
    const context = this.#newContext(call);
    let status = await this.#waitForImage(context);
    for (let last = false; ; last = true) {
      try {
        const facts = await fetchImage(context, this.id, this.#imageUrl(status, index), sink);
        for (const warning of sizeWarnings(facts, this.#request)) context.notify("warning", this.id, warning);
        return { ...facts, jobId: this.id, seed: status.seed ?? this.#request.seed ?? null, engine: status.engine };
      } catch (error) {
        if (error instanceof UmrgenError) error.jobId ??= this.id;
        const refused = error instanceof OutputForbidden || error instanceof OutputMissing;
        if (!refused || last || error.code === "foreign_output") throw error;
        status = await this.#newStatus(context, error);
      }
    }
  }

  /**
   * Cancel the job on the server; return its status after that. Throws Unsupported on older servers.
   * @param {CallOptions} [call]
   */
  async cancel(call) {
    const path = `/cancel/${encodeURIComponent(this.id)}`;
    const data = await callIfSupported(this.#newContext(call), path, { method: "POST" }, { jobId: this.id });
    return parseStatus(data, this.id) ?? this.status(call);
  }

  /**
   * Make the job a favorite, which the server's retention keeps, or not; return its status after that. Throws
   * Unsupported on older servers.
   * @param {boolean} [favorite]
   * @param {CallOptions} [call]
   */
  async favorite(favorite = true, call) {
    const request = { ...post({ favorite }), method: "PATCH" };
    const settings = { jobId: this.id, next: NO_FAVORITES };
    const data = await callIfSupported(this.#newContext(call), this.#path, request, settings);
    return parseStatus(data, this.id) ?? this.status(call);
  }

  /**
   * Delete the job on the server: its images, its prompt, and its place in lists. A job that is not over is cancelled;
   * deleting it again is no error. Throws Unsupported on older servers.
   * @param {CallOptions} [call]
   */
  async delete(call) {
    const settings = { jobId: this.id, next: NO_DELETION };
    await callIfSupported(this.#newContext(call), this.#path, { method: "DELETE" }, settings);
  }

  // --- private ---

  get #path() {
    return `/jobs/${encodeURIComponent(this.id)}`;
  }

  /**
   * Return the context of one call: with the deadline of the submit, or with a new one after that.
   * @param {CallOptions} [call]
   */
  #newContext(call = {}) {
    const submit = this.#submit;
    const signals = [submit?.signal, call.signal].filter((signal) => signal !== undefined);
    const signal = signals.length > 1 ? AbortSignal.any(signals) : signals[0];
    const keepDeadline = submit && submit.timeLeft > 0 && !submit.deadline.passed && call.timeout === undefined;
    return this.#contextFactory({ ...call, signal }, keepDeadline ? submit.deadline : undefined);
  }

  /** @param {CallContext} context */
  #poller(context) {
    return new StatusPoller(context, this.id, { seen: this.#seen });
  }

  /**
   * Return the result of a poller; note whether it has seen the job.
   * @template T
   * @param {StatusPoller} poller
   * @param {Promise<T>} result
   */
  async #run(poller, result) {
    try {
      return await result;
    } finally {
      this.#seen = poller.seen;
    }
  }

  /**
   * Return the status of the completed job; of one that an older server has forgotten, but whose image it still lists.
   * @param {CallContext} context
   */
  async #waitForImage(context) {
    try {
      return await this.#wait(context);
    } catch (error) {
      const listed = error instanceof JobNotFound && !error.coded ? await listedImage(context, this.id) : null;
      if (!listed) throw error;
      return listed;
    }
  }

  /**
   * Return the status by another call, because the URL of the image may have expired. Throws `refused` when the server
   * no longer has the job.
   * @param {CallContext} context
   * @param {UmrgenError} refused
   */
  async #newStatus(context, refused) {
    const poller = new StatusPoller(context, this.id, { seen: true });
    poller.delay = context.options.runningInterval;
    try {
      return await poller.result();
    } catch (error) {
      throw error instanceof JobNotFound ? refused : error;
    }
  }

  /**
   * Return the status of the completed job, which may be known already.
   * @param {CallContext} context
   */
  async #wait(context) {
    const known = this.outcome;
    if (known instanceof UmrgenError) throw known;
    if (known?.imageUrl || known?.state === "failed") return requireCompleted(known);
    const poller = this.#poller(context);
    return (this.outcome = await this.#run(poller, poller.result()));
  }

  /**
   * @param {Status} status
   * @param {number} index
   */
  #imageUrl({ images }, index) {
    const url = images[index];
    if (url === undefined) throw new OutputMissing(`the job has ${images.length} images`, { jobId: this.id });
    return url;
  }
}
