// The HTTP transport: requests with `fetch`; the API key is sent to the server's origin only.
import { checkedAddress, checkedKey } from "./address.js";
import { withTimeout } from "./clock.js";
import { crossOriginAdvice, failureReason, wasNotSent } from "./failures.js";
import { MAX_BODY, parseObject } from "./responses.js";

/** @import { Clock } from "./clock.js" */

/** No response was received. `sent` is false only when the request certainly did not reach the server. */
export class TransportFailure extends Error {
  /**
   * @param {string} reason
   * @param {boolean} sent
   * @param {string} [advice]
   */
  constructor(reason, sent, advice = "") {
    super(reason);
    this.sent = sent;
    this.advice = advice;
  }
}

/**
 * A response. `elapsed` is the seconds from sending the request to the end of the response, `wall` the time at that.
 * @typedef {object} Reply
 * @property {number} status
 * @property {Headers} headers
 * @property {string} text
 * @property {Record<string, any> | null} json the JSON object in the body, or null when the body is not one
 * @property {number} elapsed
 * @property {number} wall
 */

/** @typedef {{method?: string, headers?: Record<string, string>, body?: string | FormData}} Request */

/** Sends requests to one server with one API key. */
export class Transport {
  /** @type {Record<string, string>} */
  #headers = { Accept: "application/json" };
  #fetch;

  /**
   * @param {string} baseUrl
   * @param {string | undefined} apiKey
   * @param {Clock} clock
   * @param {typeof fetch} [fetcher]
   */
  constructor(baseUrl, apiKey, clock, fetcher) {
    this.baseUrl = checkedAddress(baseUrl);
    this.clock = clock;
    // A browser's `fetch` must be called as a function, not as a method of another object.
    this.#fetch = (/** @type {string} */ url, /** @type {RequestInit} */ init) => (fetcher ?? fetch)(url, init);
    const key = checkedKey(apiKey);
    if (key) this.#headers.Authorization = `Bearer ${key}`;
    if (new URL(this.baseUrl).hostname.endsWith(".share.zrok.io")) this.#headers.skip_zrok_interstitial = "1";
  }

  /**
   * Send one API request; the whole response must arrive within `timeout` seconds, parsing included, and have at most
   * `limit` bytes. Throws TransportFailure, or the reason of `signal`.
   * @param {string} path
   * @param {Request} request
   * @param {number} timeout
   * @param {AbortSignal} [signal]
   * @param {number} [limit]
   * @returns {Promise<Reply>}
   */
  async send(path, request, timeout, signal, limit = MAX_BODY) {
    const started = this.clock.now();
    const controller = new AbortController();
    const onTimeout = () => controller.abort(new TransportFailure(`no response within ${timeout.toFixed(1)} s`, true));
    try {
      return await withTimeout(this.clock, timeout, onTimeout, async () => {
        const { status, headers, body } = await this.open(this.baseUrl + path, true, request, controller, signal);
        const text = await readText(body, limit);
        const json = parseObject(text);
        const elapsed = this.clock.now() - started;
        return { status, headers, text, json, elapsed, wall: this.clock.wall() };
      });
    } finally {
      controller.abort(); // closes the connection of a response without a body that has one all the same (204, 304)
    }
  }

  /**
   * Send one request; return the response's status, headers and `body` chunks. Aborting `controller` ends it with that
   * reason. Throws TransportFailure, or the reason of `signal`.
   * @param {string} url
   * @param {boolean} withKey
   * @param {Request} request
   * @param {AbortController} controller
   * @param {AbortSignal} [signal]
   */
  async open(url, withKey, { method = "GET", headers, body }, controller, signal) {
    const combined = signal ? AbortSignal.any([signal, controller.signal]) : controller.signal;
    /** @type {(error: unknown) => never} */
    const fail = (error) => {
      signal?.throwIfAborted();
      if (controller.signal.aborted) throw controller.signal.reason;
      const advice = url.startsWith(this.baseUrl) ? crossOriginAdvice(this.baseUrl) : "";
      throw new TransportFailure(failureReason(error), !wasNotSent(error), advice);
    };
    const sent = this.#fetch(url, {
      method,
      headers: withKey ? { ...this.#headers, ...headers } : headers,
      body,
      signal: combined,
      redirect: "manual", // so that the API key is not sent to its target
      credentials: "omit",
      cache: "no-store",
    });
    const response = await orAborted(sent, combined).catch(fail);
    return {
      // A browser hides the target and the status of a redirect.
      status: response.type === "opaqueredirect" ? 302 : response.status,
      headers: response.headers,
      body: chunks(response, combined, fail),
    };
  }
}

/**
 * Return the result of `work`; reject when `signal` is aborted, also where the platform's own work does not end: in Node,
 * the body of a response whose encoding is wrong may never end by itself.
 * @template T
 * @param {Promise<T>} work
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
function orAborted(work, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

/**
 * @param {Response} response
 * @param {AbortSignal} signal
 * @param {(error: unknown) => never} fail
 * @returns {AsyncGenerator<Uint8Array<ArrayBuffer>, void>}
 */
async function* chunks(response, signal, fail) {
  const reader = response.body?.getReader();
  try {
    for (;;) {
      if (!reader) return;
      const read = await orAborted(reader.read(), signal).catch(fail);
      if (!read.value) return;
      yield read.value;
    }
  } finally {
    reader?.cancel().catch(() => {});
  }
}

/**
 * Return the whole body of an API response as text. Throws TransportFailure when it has more than `limit` bytes.
 * @param {AsyncIterable<Uint8Array>} body
 * @param {number} [limit]
 */
export async function readText(body, limit = MAX_BODY) {
  const decoder = new TextDecoder();
  const parts = [];
  let length = 0;
  for await (const part of body) {
    length += part.length;
    if (length > limit) throw new TransportFailure(`a response of over ${limit.toLocaleString("en")} bytes`, true);
    parts.push(decoder.decode(part, { stream: true }));
  }
  return parts.join("") + decoder.decode();
}
