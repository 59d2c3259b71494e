// Submitting a job: exactly once, whatever the network does meanwhile.
import { failureOf, retryAfter, transient, unreachable } from "./answers.js";
import { API, limitedDelay, post } from "./calls.js";
import { ConcurrencyLimit, RateLimited, UmrgenError, WaitTimeout } from "./errors.js";
import { Patience } from "./run.js";
import { Watch } from "./watch.js";

/** @import { Reply } from "./server.js" */
/** @import { Run } from "./run.js" */

/**
 * Make the job; give its id.
 *
 * A submit is repeated when it provably never arrived, or was refused before it was looked at. When it may have
 * arrived, it is repeated only to a server that keeps idempotency keys; an older one would make a second job.
 * What is thrown says in `sent` whether a job may have been made.
 * @param {Run} run
 * @param {Record<string, unknown>} data
 * @param {string} key
 * @param {boolean} waitForSlot
 * @returns {Promise<string>}
 */
export async function submit(run, data, key, waitForSlot) {
  const submission = new Submission(run, data, key, waitForSlot);
  try {
    return await submission.done();
  } catch (error) {
    // What went wrong last outlives the deadline as its reason.
    const told = error instanceof WaitTimeout ? (submission.trouble ?? error) : error;
    if (told instanceof UmrgenError) told.sent = submission.maybeMade;
    throw told;
  }
}

class Submission {
  maybeMade = false;
  /** @type {UmrgenError | null} */
  trouble = null;
  #run;
  #request;
  #waitForSlot;
  #patience;
  #limited;
  /** @type {Set<string>} */
  #waitedFor = new Set();

  /**
   * @param {Run} run
   * @param {Record<string, unknown>} data
   * @param {string} key
   * @param {boolean} waitForSlot
   */
  constructor(run, data, key, waitForSlot) {
    this.#run = run;
    this.#request = post(data);
    this.#request.headers["Idempotency-Key"] = key;
    this.#waitForSlot = waitForSlot;
    this.#patience = new Patience(run, run.options.submitPatience);
    this.#limited = new Patience(run, Infinity);
  }

  async done() {
    const run = this.#run;
    for (let delay = 0; ;) {
      let reply;
      try {
        reply = await run.request(`${API}/generate`, this.#request, { delay });
      } catch (failure) {
        const error = unreachable(failure);
        delay = await this.#again(error, null, error.sent);
        continue;
      }
      const id = reply.json?.job_id;
      if ([200, 201, 202].includes(reply.status) && typeof id === "string" && id) {
        run.tell("submitted", id, "", reply.json ?? {});
        return id;
      }
      delay = await this.#refused(reply);
    }
  }

  /**
   * The delay before the next try. Throws what trying again will not change.
   * @param {Reply} reply
   */
  async #refused(reply) {
    const { status, json } = reply;
    const error = failureOf(reply);
    // Made, but the receipt cannot be read.
    if (status === 201 || status === 202) return this.#again(error, null, true);
    if (error instanceof ConcurrencyLimit) {
      if (this.#waitForSlot) return this.#slot(error, reply);
    } else if (error instanceof RateLimited) {
      // Refused before it was looked at: only the deadline limits how often one may ask.
      this.trouble = error;
      return this.#limited.bear(error, limitedDelay(this.#run, reply, this.#limited));
    }
    if (!transient(status)) throw error;
    const lookedAt = !(status === 503 && json?.code);
    return this.#again(error, retryAfter(reply), lookedAt);
  }

  /**
   * Wait until the job that is in the way is over; give the delay before the next try.
   * @param {ConcurrencyLimit} error
   * @param {Reply} reply
   */
  async #slot({ message, jobId, next }, reply) {
    const run = this.#run;
    const pause = run.asked(retryAfter(reply) || run.options.queuedInterval);
    // Nothing to wait for, or it is over and the server has not noticed yet.
    if (!jobId || this.#waitedFor.has(jobId)) return pause;
    this.#waitedFor.add(jobId);
    run.tell("slot", jobId, `waiting for job ${jobId} to end`);
    try {
      await new Watch(run, jobId, { seen: true }).nextChange(true);
    } catch (error) {
      if (error instanceof WaitTimeout) throw new WaitTimeout(message, { next });
      if (!(error instanceof UmrgenError)) throw error;
      return pause; // gone, or somebody else's: there is no more to learn about it than by trying
    }
    return 0;
  }

  /**
   * @param {UmrgenError} error
   * @param {number | null} asked
   * @param {boolean} unclear whether it may have arrived
   */
  async #again(error, asked, unclear) {
    this.trouble = error;
    if (unclear) {
      this.maybeMade = true;
      await this.#checkRepeatable(error);
    }
    return this.#patience.bear(error, asked);
  }

  /**
   * Return if this server keeps idempotency keys: if it has `/healthz` as ours has. Throw `error` if not:
   * without that promise a second submit could make a second job.
   * @param {UmrgenError} error
   */
  async #checkRepeatable(error) {
    const run = this.#run;
    const patience = this.#patience;
    for (let delay = run.options.firstBackoff; ;) {
      let reply;
      try {
        reply = await run.request("/healthz", {}, { delay });
      } catch (failure) {
        unreachable(failure);
        delay = patience.bear(error);
        continue;
      }
      if (reply.status === 200 && reply.json?.status === "ok") return;
      if (!transient(reply.status)) {
        error.retryable = false;
        error.next = "The job may have been made all the same: look at the server before you submit again.";
        throw error;
      }
      delay = patience.bear(error, retryAfter(reply));
    }
  }
}
