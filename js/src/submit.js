// Submitting a job exactly once, on an unreliable network.
import { RetryBudget } from "./context.js";
import { ConcurrencyLimit, RateLimited, UmrgenError, WaitTimeout } from "./errors.js";
import { findLostJob } from "./lost_submit.js";
import { API, post, rateLimitDelay, unreachableError } from "./protocol.js";
import { errorFrom, isHtml, isTransient, parseReceipt, retryAfter } from "./responses.js";
import { TransportFailure } from "./transport.js";
import { StatusPoller } from "./wait.js";

/** @import { CallContext } from "./context.js" */
/** @import { SubmitReceipt } from "./responses.js" */
/** @import { Reply } from "./transport.js" */

/**
 * Create the job; return the server's receipt.
 *
 * A submit is repeated when it certainly did not reach the server, or was refused before it was processed. When it
 * may have been processed, it is repeated only to a server that supports idempotency keys; on an older one, where a
 * repetition would create a second job, its job is searched for: one that is none of the `knownIds`. The property `sent` of an error is true when a job may have been created.
 * @param {CallContext} context
 * @param {Record<string, unknown>} data
 * @param {string} key
 * @param {boolean} waitForSlot
 * @param {Set<string>} knownIds
 * @returns {Promise<SubmitReceipt>}
 */
export async function submit(context, data, key, waitForSlot, knownIds) {
  const submission = new Submission(context, data, key, waitForSlot, knownIds);
  try {
    return await submission.run();
  } catch (error) {
    // After the deadline, the last error is thrown, as the reason for the timeout.
    const cause = error instanceof WaitTimeout ? (submission.lastError ?? error) : error;
    if (cause instanceof UmrgenError) cause.sent = submission.maybeCreated;
    throw cause;
  }
}

/**
 * Return a duration in its largest unit, rounded up.
 * @param {number} seconds
 */
function duration(seconds) {
  if (seconds > 3600) return `${Math.ceil(seconds / 3600)} h`;
  return seconds > 60 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds)} s`;
}

/** The submit cannot be repeated: it may have created a job, and the server has no idempotency keys. */
class LostError extends Error {}

/** One submit with its retries. */
class Submission {
  maybeCreated = false;
  /** @type {UmrgenError | null} */
  lastError = null;
  #context;
  #request;
  #waitForSlot;
  #retries;
  #limited;
  /** @type {Set<string>} */
  #waitedFor = new Set();
  #data;
  #knownIds;
  #sentAt;

  /**
   * @param {CallContext} context
   * @param {Record<string, unknown>} data
   * @param {string} key
   * @param {boolean} waitForSlot
   * @param {Set<string>} knownIds
   */
  constructor(context, data, key, waitForSlot, knownIds) {
    this.#context = context;
    this.#data = data;
    this.#knownIds = knownIds;
    this.#sentAt = context.now;
    this.#request = post(data);
    this.#request.headers["Idempotency-Key"] = key;
    this.#waitForSlot = waitForSlot;
    this.#retries = new RetryBudget(context, context.options.submitPatience);
    this.#limited = new RetryBudget(context, Infinity);
  }

  /** Submit until a job is created; return the server's receipt. */
  async run() {
    try {
      return await this.#untilAccepted();
    } catch (error) {
      if (error instanceof LostError) return this.#findAgain();
      throw error;
    }
  }

  /**
   * Return a receipt for the job of a submit without a response. Throws the last error without one.
   * @returns {Promise<SubmitReceipt>}
   */
  async #findAgain() {
    const context = this.#context;
    const error = /** @type {UmrgenError} */ (this.lastError);
    const knownIds = new Set([...this.#knownIds, ...this.#waitedFor]);
    const jobId = await findLostJob(context, { request: this.#data, sentAt: this.#sentAt, knownIds });
    if (jobId === null) {
      error.retryable = false;
      error.next = "The job may have been created: check the server before you submit again.";
      throw error;
    }
    context.notify("submitted", jobId, `${error.message}; the server has the job`, { job_id: jobId });
    return { jobId, warnings: [], raw: { job_id: jobId } };
  }

  /** @returns {Promise<SubmitReceipt>} */
  async #untilAccepted() {
    const context = this.#context;
    for (let delay = 0; ;) {
      let reply;
      try {
        await context.pause(delay, null);
        this.#sentAt = context.now;
        reply = await context.send(`${API}/generate`, this.#request);
      } catch (failure) {
        const error = unreachableError(failure);
        delay = await this.#retryDelay(error, null, failure instanceof TransportFailure && failure.sent);
        continue;
      }
      const receipt = [200, 201, 202].includes(reply.status) ? parseReceipt(reply.json) : null;
      if (receipt) {
        // An older server limits the calls of a minute.
        if (!("status_url" in receipt.raw)) context.budget.limited = true;
        context.notify("submitted", receipt.jobId, "", receipt.raw);
        return receipt;
      }
      delay = await this.#handleError(reply);
    }
  }

  /**
   * Return the delay before the retry of a transient error; throw any other.
   * @param {Reply} reply
   */
  async #handleError(reply) {
    const { status, json } = reply;
    const error = errorFrom(reply);
    // Created, but the response cannot be read. An HTML page is from a gateway, in place of the request.
    const unreadable = status === 200 && !json && !isHtml(reply);
    if (status === 201 || status === 202 || unreadable) return this.#retryDelay(error, null, true);
    if (error instanceof ConcurrencyLimit) {
      if (this.#waitForSlot) {
        this.lastError = null; // an earlier one is not the reason for the wait
        return this.#waitForJob(error, reply);
      }
    } else if (error instanceof RateLimited) {
      // Refused before it was processed: only the deadline limits the retries.
      this.lastError = error;
      const delay = rateLimitDelay(this.#context, reply, this.#limited);
      if (error.coded && delay > this.#context.timeLeft) {
        error.next = `Submit it again in ${duration(delay)}.`; // the server's own limit, of a day for example
        throw error;
      }
      return this.#limited.nextDelay(error, delay);
    }
    if (!isTransient(status)) throw error;
    // A 503 with a code is UMRGEN's own, sent before the request is processed.
    const processed = !(status === 503 && json?.code);
    return this.#retryDelay(error, retryAfter(reply), processed);
  }

  /**
   * Wait until the job that occupies the slot is over; return the delay before the next submit.
   * @param {ConcurrencyLimit} error
   * @param {Reply} reply
   */
  async #waitForJob({ message, jobId, next }, reply) {
    const context = this.#context;
    const pause = context.serverDelay(retryAfter(reply) || context.options.queuedInterval);
    // The id is not known, or the server has not yet released the slot of a finished job.
    if (!jobId || this.#waitedFor.has(jobId)) return pause;
    this.#waitedFor.add(jobId);
    context.notify("slot", jobId, `waiting for job ${jobId} to end`);
    try {
      await new StatusPoller(context, jobId, { seen: true }).nextChange(true);
    } catch (error) {
      if (error instanceof WaitTimeout) throw new WaitTimeout(message, { next });
      if (!(error instanceof UmrgenError)) throw error;
      return pause; // deleted, or another session's job: only a retry shows whether the slot is free
    }
    return 0;
  }

  /**
   * @param {UmrgenError} error
   * @param {number | null} requested the delay that the server requested
   * @param {boolean} maybeCreated whether the server may have created a job
   */
  async #retryDelay(error, requested, maybeCreated) {
    this.lastError = error;
    if (maybeCreated) {
      this.maybeCreated = true;
      await this.#checkRepeatable(error);
    }
    return this.#retries.nextDelay(error, requested);
  }

  /**
   * Return if this server supports idempotency keys, which it does if its `/healthz` names UMRGEN. Throws LostError if not,
   * and `error` when it cannot be asked.
   * @param {UmrgenError} error
   */
  async #checkRepeatable(error) {
    const context = this.#context;
    const retries = this.#retries;
    const limited = new RetryBudget(context, Infinity);
    for (let delay = context.options.firstBackoff; ;) {
      let reply;
      try {
        reply = await context.request("/healthz", {}, { delay });
      } catch (failure) {
        if (failure instanceof WaitTimeout) throw error;
        unreachableError(failure);
        delay = retries.nextDelay(error);
        continue;
      }
      if (reply.status === 200 && reply.json?.server === "umrgen") return;
      if (reply.status === 429) delay = limited.nextDelay(error, rateLimitDelay(context, reply, limited));
      else if (isTransient(reply.status)) delay = retries.nextDelay(error, retryAfter(reply));
      else throw new LostError();
    }
  }
}
