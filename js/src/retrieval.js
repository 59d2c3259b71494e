// Fetching an image into a sink, verified.
import { withTimeout } from "./clock.js";
import { RetryBudget } from "./context.js";
import { expectedSize, hasImage, isContinuation, rangeHeaders } from "./download.js";
import { redirectTarget, resolveOutput, StalePartial, validatorOf } from "./download.js";
import { ConnectionFailed, NotUmrgen, OutputCorrupt, OutputForbidden, OutputMissing } from "./errors.js";
import { RateLimited, ServerError } from "./errors.js";
import { digestFromHeaders, verify } from "./images.js";
import { rateLimitDelay } from "./protocol.js";
import { retryAfter } from "./responses.js";
import { TransportFailure } from "./transport.js";

/** @import { CallContext } from "./context.js" */
/** @import { UmrgenError } from "./errors.js" */
/** @import { ImageFacts } from "./images.js" */

const MAX_REDIRECTS = 5;
/** Bytes of a response without an image that are read. */
const MAX_ERROR = 4096;

/**
 * The destination of a download. `begin` starts an empty file; `read` returns everything written since.
 * @typedef {object} Sink
 * @property {() => Promise<void>} begin
 * @property {(chunk: Uint8Array<ArrayBuffer>) => Promise<void>} write
 * @property {() => Promise<Uint8Array<ArrayBuffer>>} read
 */

/** A sink that keeps the bytes in memory. @implements {Sink} */
export class MemorySink {
  /** @type {Uint8Array<ArrayBuffer>[]} */
  #parts = [];

  async begin() {
    this.#parts = [];
  }

  /** @param {Uint8Array<ArrayBuffer>} chunk */
  async write(chunk) {
    this.#parts.push(chunk);
  }

  async read() {
    const bytes = new Uint8Array(this.#parts.reduce((size, part) => size + part.length, 0));
    let at = 0;
    for (const part of this.#parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }
}

/**
 * Fetch the image at `imageUrl` into `sink`, complete and verified. Throws the Output... errors, ConnectionFailed,
 * ServerError and WaitTimeout.
 * @param {CallContext} context
 * @param {string} jobId
 * @param {string} imageUrl
 * @param {Sink} sink
 */
export async function fetchImage(context, jobId, imageUrl, sink) {
  try {
    return await new Download(context, jobId, sink).verified(imageUrl);
  } catch (error) {
    if (!(error instanceof OutputCorrupt)) throw error;
    // Retry from the first byte: a resumed file may be a mix of two versions.
    context.notify("retrying", jobId, error.message, { code: error.code });
    return new Download(context, jobId, sink).verified(imageUrl);
  }
}

/** One download of an image into its sink. */
class Download {
  #partial = { size: 0, validator: "" };
  #context;
  #jobId;
  #sink;
  #retries;
  #limited;
  /** @type {number | null} */
  #requestedDelay = null;
  #attemptsWithoutProgress = 0;
  /** @type {number | null} */
  #length = null;
  /** @type {string | null} */
  #digest = null;

  /**
   * @param {CallContext} context
   * @param {string} jobId
   * @param {Sink} sink
   */
  constructor(context, jobId, sink) {
    this.#context = context;
    this.#jobId = jobId;
    this.#sink = sink;
    this.#retries = new RetryBudget(context, context.options.patience);
    this.#limited = new RetryBudget(context, Infinity);
  }

  /**
   * Download the whole image and verify it.
   * @param {string} imageUrl
   * @returns {Promise<ImageFacts & {bytes: Uint8Array<ArrayBuffer>}>}
   */
  async verified(imageUrl) {
    await this.#download(imageUrl);
    const bytes = await this.#sink.read();
    return { bytes, ...(await verify(bytes, { length: this.#length, sha256: this.#digest })) };
  }

  /** @param {number} seconds */
  async #sleep(seconds) {
    const context = this.#context;
    if (seconds > 0) await context.observed(seconds, () => context.clock.sleep(seconds, context.signal));
  }

  /**
   * Send requests until the body is complete.
   * @param {string} imageUrl
   */
  async #download(imageUrl) {
    const { transport, options } = this.#context;
    let { url, withKey } = resolveOutput(transport.baseUrl, imageUrl, options.followForeign);
    for (let delay = 0, redirects = 0; ;) {
      await this.#sleep(Math.min(delay, this.#context.timeLeft));
      if (this.#context.timeLeft <= 0) throw this.#context.timeoutError(this.#jobId);
      const before = this.#partial.size;
      try {
        const location = await this.#request(url, withKey);
        delay = 0;
        if (location === null && this.#partial.size) return;
        if (location === null) {
          delay = this.#retryDelay(new OutputMissing("the server sent an empty file"), false); // a gateway without a route
          continue;
        }
        if (++redirects > MAX_REDIRECTS) {
          throw new OutputCorrupt(`more than ${MAX_REDIRECTS} redirects of the image`, { code: "redirect_loop" });
        }
        ({ url, withKey } = redirectTarget(transport.baseUrl, url, location, options.followForeign));
      } catch (error) {
        if (error instanceof OutputForbidden && error.code !== "output_forbidden") redirects = 0;
        delay = this.#delayAfter(error, before);
      }
    }
  }

  /**
   * Return the seconds until the next attempt after `error`. Throws permanent errors.
   * @param {unknown} error
   * @param {number} before the size before the attempt
   */
  #delayAfter(error, before) {
    const jobId = this.#jobId;
    if (error instanceof TransportFailure) {
      const interruption = `the download was interrupted: ${error.message}`;
      const progress = this.#partial.size > before;
      if (progress) this.#retries.reset();
      return this.#retryDelay(new ConnectionFailed(interruption, { jobId }), progress);
    }
    if (error instanceof StalePartial) {
      this.#partial.size = 0; // its bytes are of another version
      return this.#retryDelay(new OutputCorrupt("the image changed during the download"), false);
    }
    if (error instanceof RateLimited) return this.#limited.nextDelay(error, this.#requestedDelay, jobId);
    if (error instanceof ServerError || error instanceof NotUmrgen) {
      const final = error.status === 200 ? new OutputCorrupt(error.message) : error;
      return this.#retries.nextDelay(final, this.#requestedDelay, jobId);
    }
    // A redirect to another server: a gateway's login page, for example.
    if (error instanceof OutputForbidden && error.code !== "output_forbidden") {
      return this.#retries.nextDelay(error, null, jobId);
    }
    throw error;
  }

  /**
   * Return the seconds until the next attempt. Throws `error` after too many attempts without a new byte.
   * @param {UmrgenError} error
   * @param {boolean} progress whether the last attempt received new bytes
   */
  #retryDelay(error, progress) {
    this.#attemptsWithoutProgress = progress ? 0 : this.#attemptsWithoutProgress + 1;
    if (this.#attemptsWithoutProgress >= this.#context.options.downloadTries) throw error;
    return this.#retries.nextDelay(error, null, this.#jobId);
  }

  /**
   * Send one request; return the target of a redirect, or null when the body is complete.
   * @param {string} url
   * @param {boolean} withKey
   */
  async #request(url, withKey) {
    const { clock, timeLeft } = this.#context;
    const controller = new AbortController();
    const onTimeout = () => controller.abort(new TransportFailure("no full response in time", true));
    try {
      const exchange = () => this.#exchange(url, withKey, controller);
      return await this.#context.observed(timeLeft, () => withTimeout(clock, timeLeft, onTimeout, exchange));
    } finally {
      controller.abort();
    }
  }

  /**
   * @param {string} url
   * @param {boolean} withKey
   * @param {AbortController} controller
   */
  async #exchange(url, withKey, controller) {
    const context = this.#context;
    const partial = this.#partial;
    const { transport, clock, options } = context;
    const onTimeout = () => controller.abort(new TransportFailure("no data in time", true));
    const response = await withTimeout(clock, options.requestTimeout, onTimeout, () =>
      transport.open(url, withKey, { headers: rangeHeaders(partial) }, controller, context.signal),
    );
    const { status, headers, body } = response;
    const reply = { headers, wall: clock.wall() };
    this.#requestedDelay = status === 429 ? rateLimitDelay(context, reply, this.#limited) : retryAfter(reply);
    if (status >= 300 && status < 400) {
      const location = headers.get("location");
      if (location) return location;
    }
    const error = hasImage(status, headers) ? "" : await beginning(body);
    if (!isContinuation(status, headers, partial, { error, foreign: !withKey })) {
      await this.#sink.begin();
      this.#partial = { size: 0, validator: validatorOf(headers) };
    }
    this.#length = expectedSize(status, headers);
    this.#digest = digestFromHeaders(headers, status === 206);
    await this.#writeBody(body, onTimeout);
    if (this.#length !== null && this.#partial.size < this.#length) {
      throw new TransportFailure("the body ended early", true);
    }
    return null;
  }

  /**
   * Write the chunks. Throws TransportFailure when no or too few bytes arrive within `dripWindow` seconds.
   * @param {AsyncGenerator<Uint8Array<ArrayBuffer>, void>} body
   * @param {() => void} onTimeout
   */
  async #writeBody(body, onTimeout) {
    const context = this.#context;
    const partial = this.#partial;
    const { dripWindow, dripRate, maxBytes } = context.options;
    for (let since = context.now, count = 0; ;) {
      const { value, done } = await withTimeout(context.clock, dripWindow, onTimeout, () => body.next());
      if (done || !value) return;
      if (partial.size + value.length > maxBytes) {
        throw new OutputCorrupt(`the image is larger than ${maxBytes} bytes`, { code: "too_large" });
      }
      await this.#sink.write(value);
      partial.size += value.length;
      count += value.length;
      context.notify("download", this.#jobId, "", { bytes: partial.size, total: this.#length });
      const span = context.now - since;
      if (span < dripWindow) continue;
      if (count < dripRate * span) throw new TransportFailure("the transfer is too slow", true);
      since = context.now;
      count = 0;
    }
  }
}

/**
 * Return the first bytes of a response without an image, as text.
 * @param {AsyncIterable<Uint8Array>} body
 */
async function beginning(body) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const part of body) {
    text += decoder.decode(part.subarray(0, MAX_ERROR), { stream: true });
    if (text.length >= MAX_ERROR) break;
  }
  return text;
}
