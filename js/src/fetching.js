// Fetching an image: from its URL to verified bytes in a sink, or to an error.
import { retryAfter } from "./answers.js";
import { limitedDelay } from "./calls.js";
import { within } from "./clock.js";
import { ConnectionFailed, OutputCorrupt, OutputForbidden, RateLimited, ServerError } from "./errors.js";
import { promisedDigest, verify } from "./images.js";
import { announcedSize, continues, rangeHeaders, resolveOutput, Stale, validatorOf } from "./outputs.js";
import { Patience } from "./run.js";
import { Failure } from "./server.js";

/** @import { UmrgenError } from "./errors.js" */
/** @import { ImageFacts } from "./images.js" */
/** @import { Run } from "./run.js" */

const MAX_REDIRECTS = 5;

/**
 * Where a download's bytes go. `begin` starts the file anew; `read` gives all that was written since.
 * @typedef {object} Sink
 * @property {() => Promise<void>} begin
 * @property {(chunk: Uint8Array<ArrayBuffer>) => Promise<void>} write
 * @property {() => Promise<Uint8Array<ArrayBuffer>>} read
 */

/** A sink that keeps the bytes in memory. @implements {Sink} */
export class Memory {
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
    return new Uint8Array(await new Blob(this.#parts).arrayBuffer());
  }
}

/**
 * Get the image at `imageUrl` into `sink`, whole and verified. Throws Output... errors, ConnectionFailed,
 * ServerError and WaitTimeout.
 * @param {Run} run
 * @param {string} jobId
 * @param {string} imageUrl
 * @param {Sink} sink
 */
export async function fetchImage(run, jobId, imageUrl, sink) {
  try {
    return await new Fetch(run, jobId, sink).verified(imageUrl);
  } catch (error) {
    if (!(error instanceof OutputCorrupt)) throw error;
    // Once more from the first byte: what was resumed may have been patched together.
    run.tell("retrying", jobId, error.message, { code: error.code });
    return new Fetch(run, jobId, sink).verified(imageUrl);
  }
}

/** One image's way from its URL into its sink. */
class Fetch {
  #have = { size: 0, validator: "" };
  #run;
  #jobId;
  #sink;
  #patience;
  #limited;
  /** @type {number | null} */
  #asked = null;
  #fruitless = 0;
  /** @type {number | null} */
  #length = null;
  /** @type {string | null} */
  #digest = null;

  /**
   * @param {Run} run
   * @param {string} jobId
   * @param {Sink} sink
   */
  constructor(run, jobId, sink) {
    this.#run = run;
    this.#jobId = jobId;
    this.#sink = sink;
    this.#patience = new Patience(run, run.options.patience);
    this.#limited = new Patience(run, Infinity);
  }

  /**
   * @param {string} imageUrl
   * @returns {Promise<ImageFacts & {bytes: Uint8Array<ArrayBuffer>}>}
   */
  async verified(imageUrl) {
    await this.#whole(imageUrl);
    const bytes = await this.#sink.read();
    return { bytes, ...(await verify(bytes, { length: this.#length, sha256: this.#digest })) };
  }

  /**
   * Ask until the body has come to its end.
   * @param {string} imageUrl
   */
  async #whole(imageUrl) {
    const { server, options } = this.#run;
    let { url, withKey } = resolveOutput(server.baseUrl, imageUrl, options.followForeign);
    for (let delay = 0, redirects = 0; ;) {
      if (delay > 0) await this.#run.clock.sleep(Math.min(delay, this.#run.left), this.#run.signal);
      if (this.#run.left <= 0) throw this.#run.timedOut(this.#jobId);
      const before = this.#have.size;
      try {
        const location = await this.#attempt(url, withKey);
        if (location === null) return;
        if (++redirects > MAX_REDIRECTS) {
          throw new OutputCorrupt("the image's address redirects without end", { code: "redirect_loop" });
        }
        const there = URL.canParse(location, url) ? new URL(location, url).href : location;
        ({ url, withKey } = resolveOutput(server.baseUrl, there, options.followForeign));
        delay = 0;
      } catch (error) {
        delay = this.#borne(error, before);
      }
    }
  }

  /**
   * Seconds until the next try after `error`; a try that brought bytes starts the count anew. Throws what trying
   * again will not change.
   * @param {unknown} error
   * @param {number} before the size before the try
   */
  #borne(error, before) {
    const jobId = this.#jobId;
    if (error instanceof Failure) {
      const { message, cause } = error;
      const broken = new ConnectionFailed(`the download broke off: ${message}`, { jobId, cause: cause ?? error });
      const further = this.#have.size > before;
      if (further) this.#patience.good();
      return this.#again(broken, further);
    }
    if (error instanceof Stale) {
      this.#have.size = 0; // what is there is of another version
      return this.#again(new OutputCorrupt("the image changes while it is sent"), false);
    }
    if (error instanceof RateLimited) return this.#limited.bear(error, this.#asked, jobId);
    if (error instanceof ServerError) return this.#patience.bear(error, this.#asked, jobId);
    throw error;
  }

  /**
   * @param {UmrgenError} error
   * @param {boolean} further whether the last try got on
   */
  #again(error, further) {
    this.#fruitless = further ? 0 : this.#fruitless + 1;
    if (this.#fruitless >= this.#run.options.downloadTries) throw error;
    return this.#patience.bear(error, null, this.#jobId);
  }

  /**
   * One request. The address of a redirect, or null when the body came to its end.
   * @param {string} url
   * @param {boolean} withKey
   */
  async #attempt(url, withKey) {
    const { clock, left } = this.#run;
    const cut = new AbortController();
    const late = () => cut.abort(new Failure("it took too long", true));
    try {
      return await within(clock, left, late, () => this.#exchange(url, withKey, cut));
    } finally {
      cut.abort();
    }
  }

  /**
   * @param {string} url
   * @param {boolean} withKey
   * @param {AbortController} cut
   */
  async #exchange(url, withKey, cut) {
    const run = this.#run;
    const have = this.#have;
    const { server, clock, options } = run;
    const late = () => cut.abort(new Failure("nothing came", true));
    const answer = await within(clock, options.requestTimeout, late, () =>
      server.open(url, withKey, { headers: rangeHeaders(have) }, cut, run.signal),
    );
    const { status, headers, body } = answer;
    const reply = { headers, wall: clock.wall() };
    this.#asked = status === 429 ? limitedDelay(run, reply, this.#limited) : retryAfter(reply);
    if (status >= 300 && status < 400) {
      const location = headers.get("location");
      if (location) return location;
      throw new OutputForbidden(`the image's address redirects elsewhere (HTTP ${status})`, { status });
    }
    if (!continues(status, headers, have)) {
      await this.#sink.begin();
      this.#have = { size: 0, validator: validatorOf(headers) };
    }
    this.#length = announcedSize(status, headers);
    this.#digest = promisedDigest(headers, status === 206);
    await this.#takeIn(body, late);
    if (this.#length !== null && this.#have.size < this.#length) throw new Failure("the body ended early", true);
    return null;
  }

  /**
   * Write the chunks; a drip, or a silence, of `dripWindow` seconds breaks the transfer off.
   * @param {AsyncGenerator<Uint8Array<ArrayBuffer>, void>} body
   * @param {() => void} late
   */
  async #takeIn(body, late) {
    const run = this.#run;
    const have = this.#have;
    const { dripWindow, dripRate, maxBytes } = run.options;
    for (let since = run.now, count = 0; ;) {
      const { value, done } = await within(run.clock, dripWindow, late, () => body.next());
      if (done || !value) return;
      if (have.size + value.length > maxBytes) {
        throw new OutputCorrupt(`the image is larger than ${maxBytes} bytes`, { code: "too_large" });
      }
      await this.#sink.write(value);
      have.size += value.length;
      count += value.length;
      run.tell("download", this.#jobId, "", { bytes: have.size, total: this.#length });
      const span = run.now - since;
      if (span < dripWindow) continue;
      if (count < dripRate * span) throw new Failure("it came too slowly", true);
      since = run.now;
      count = 0;
    }
  }
}
