// One job on one server, as a caller holds it.
import { ask } from "./calls.js";
import { OutputForbidden, OutputMissing, UmrgenError } from "./errors.js";
import { events } from "./events.js";
import { fetchImage, Memory } from "./fetching.js";
import { parseStatus } from "./status.js";
import { finished, Watch } from "./watch.js";

/** @import { Sink } from "./fetching.js" */
/** @import { ImageFacts } from "./images.js" */
/** @import { Outcome } from "./many.js" */
/** @import { Options } from "./options.js" */
/** @import { Deadline, Event, Run } from "./run.js" */
/** @import { Status } from "./status.js" */

/**
 * What any call may be given: a signal that ends it, a listener, and every option, for this call alone.
 * @typedef {Partial<Options> & {signal?: AbortSignal, onEvent?: (event: Event) => void}} CallOptions
 */

/** @typedef {(call: CallOptions, deadline?: Deadline) => Run} Begin */

/**
 * A verified image.
 * @typedef {ImageFacts & {
 *   bytes: Uint8Array<ArrayBuffer>,
 *   jobId: string,
 *   seed: number | null,
 *   engine: string | null,
 * }} Image
 */

/** What may stand where a job id belongs, in a path and in a file name. */
const JOB_ID = /^\w[\w.:-]{0,127}$/;

export class Job {
  /** How it ended, once that is known: its last status, or why it cannot be known. @type {Outcome | null} */
  outcome = null;
  #begin;
  #seen;
  #submit;

  /**
   * Made by `Umrgen.submit` and `Umrgen.job`.
   * @param {Begin} begin
   * @param {string} id
   * @param {Run} [submit] the call that made it: its deadline and its signal go on
   */
  constructor(begin, id, submit) {
    if (!JOB_ID.test(id)) {
      throw new UmrgenError(`${JSON.stringify(String(id).slice(0, 80))} is no job id`, {
        code: "bad_job_id",
        next: "Use an id as submit gives it, for example ext_0123.",
      });
    }
    this.id = id;
    this.#begin = begin;
    this.#submit = submit;
    this.#seen = !!submit;
  }

  /** Every change of the job's status; ends when it is over. */
  [Symbol.asyncIterator]() {
    return this.watch();
  }

  /**
   * Every change of the job's status; ends when it is over.
   * @param {CallOptions} [call]
   * @returns {AsyncGenerator<Status, void>}
   */
  async *watch(call) {
    const watch = this.#watch(this.#run(call));
    for (;;) {
      const status = await watch.nextChange();
      this.#seen = true;
      if (status.over) this.outcome = status;
      yield status;
      if (status.over) return;
    }
  }

  /**
   * What happens to the job, as the server tells it: `status`, `progress`, and with `preview` small pictures on
   * the way. Throws Unsupported on older servers.
   * @param {CallOptions & {preview?: boolean}} [call]
   */
  events({ preview = false, ...call } = {}) {
    return events(this.#run(call), this.id, preview);
  }

  /**
   * The job as it is now.
   * @param {CallOptions} [call]
   */
  async status(call) {
    const run = this.#run(call);
    run.options = { ...run.options, wait: 0, patience: call?.patience ?? run.options.submitPatience };
    const status = await this.#watch(run).nextChange();
    this.#seen = true;
    return status;
  }

  /**
   * The completed job. Throws JobFailed, WaitTimeout, OutputMissing, ...
   * @param {CallOptions} [call]
   */
  async wait(call) {
    return this.#end(this.#run(call));
  }

  /**
   * Wait if need be, then the verified image; of several, the one with `index`.
   * @param {CallOptions & {index?: number}} [call]
   * @returns {Promise<Image>}
   */
  async image({ index = 0, ...call } = {}) {
    return this.download(new Memory(), { index, ...call });
  }

  /**
   * As `image`, by way of a sink of your own.
   * @param {Sink} sink
   * @param {CallOptions & {index?: number}} [call]
   * @returns {Promise<Image>}
   */
  async download(sink, { index = 0, ...call } = {}) {
    const run = this.#run(call);
    let status = await this.#end(run);
    for (let last = false; ; last = true) {
      try {
        const facts = await fetchImage(run, this.id, this.#imageUrl(status, index), sink);
        return { ...facts, jobId: this.id, seed: status.seed, engine: status.engine };
      } catch (error) {
        if (error instanceof UmrgenError) error.jobId ??= this.id;
        const refused = error instanceof OutputForbidden || error instanceof OutputMissing;
        if (!refused || last || error.code === "foreign_output") throw error;
        // The address may be stale: ask once more where the image is.
        status = await new Watch(run, this.id, { seen: true }).result();
      }
    }
  }

  /**
   * Ask the server to end the job; give the job as it then is. Throws Unsupported on older servers.
   * @param {CallOptions} [call]
   */
  async cancel(call) {
    const path = `/cancel/${encodeURIComponent(this.id)}`;
    const data = await ask(this.#run(call), path, { method: "POST" }, { jobId: this.id });
    return parseStatus(data, this.id) ?? this.status(call);
  }

  // --- inside ---

  /**
   * The run of one call. As long as it has not passed, the deadline of the submit is the deadline of all.
   * @param {CallOptions} [call]
   */
  #run(call = {}) {
    const submit = this.#submit;
    const signals = [submit?.signal, call.signal].filter((signal) => signal !== undefined);
    const signal = signals.length > 1 ? AbortSignal.any(signals) : signals[0];
    const goesOn = submit && submit.left > 0 && !submit.deadline.passed && call.timeout === undefined;
    return this.#begin({ ...call, signal }, goesOn ? submit.deadline : undefined);
  }

  /** @param {Run} run */
  #watch(run) {
    return new Watch(run, this.id, { seen: this.#seen });
  }

  /**
   * The completed job: known already, or waited for.
   * @param {Run} run
   */
  async #end(run) {
    const known = this.outcome;
    if (known instanceof UmrgenError) throw known;
    if (known?.imageUrl || known?.state === "failed") return finished(known);
    return (this.outcome = await this.#watch(run).result());
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
