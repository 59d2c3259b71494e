// One job on one server.
import { callIfSupported } from "./protocol.js";
import { OutputForbidden, OutputMissing, UmrgenError } from "./errors.js";
import { events } from "./events.js";
import { fetchImage, MemorySink } from "./retrieval.js";
import { parseStatus } from "./status.js";
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

/** The pattern of a job id, which is part of paths and file names. */
const JOB_ID = /^\w[\w.:-]{0,127}$/;

/** One job on one server. */
export class Job {
  /** How the job ended, once known: its final status, or the error that makes it unknown. @type {Outcome | null} */
  outcome = null;
  #contextFactory;
  #seen;
  #submit;

  /**
   * Called by `Umrgen.submit` and `Umrgen.job`.
   * @param {ContextFactory} contextFactory
   * @param {string} id
   * @param {CallContext} [submit] the context of the submit, whose deadline and signal apply to later calls
   */
  constructor(contextFactory, id, submit) {
    if (!JOB_ID.test(id)) {
      throw new UmrgenError(`${JSON.stringify(String(id).slice(0, 80))} is not a job id`, {
        code: "bad_job_id",
        next: "Use an id from submit, such as ext_0123.",
      });
    }
    this.id = id;
    this.#contextFactory = contextFactory;
    this.#submit = submit;
    this.#seen = !!submit;
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
      const status = await poller.nextChange();
      this.#seen = true;
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
    return events(this.#newContext(call), this.id, preview);
  }

  /**
   * Return the current status of the job.
   * @param {CallOptions} [call]
   */
  async status(call) {
    const context = this.#newContext(call);
    context.options = { ...context.options, wait: 0, patience: call?.patience ?? context.options.submitPatience };
    const status = await this.#poller(context).nextChange();
    this.#seen = true;
    return status;
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
    let status = await this.#wait(context);
    for (let last = false; ; last = true) {
      try {
        const facts = await fetchImage(context, this.id, this.#imageUrl(status, index), sink);
        return { ...facts, jobId: this.id, seed: status.seed, engine: status.engine };
      } catch (error) {
        if (error instanceof UmrgenError) error.jobId ??= this.id;
        const refused = error instanceof OutputForbidden || error instanceof OutputMissing;
        if (!refused || last || error.code === "foreign_output") throw error;
        // The URL may have expired: get a new one by another status call.
        status = await new StatusPoller(context, this.id, { seen: true }).result();
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

  // --- private ---

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
   * Return the status of the completed job, which may be known already.
   * @param {CallContext} context
   */
  async #wait(context) {
    const known = this.outcome;
    if (known instanceof UmrgenError) throw known;
    if (known?.imageUrl || known?.state === "failed") return requireCompleted(known);
    return (this.outcome = await this.#poller(context).result());
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
