// The HTTP transport: a server's address, its API key, which is sent to its origin only, and requests with `fetch`.
import { withTimeout } from "./clock.js";
import { UmrgenError } from "./errors.js";

/** @import { Clock } from "./clock.js" */

/** The largest response to an API call, in bytes. */
const MAX_RESPONSE = 32 * 1024 * 1024;

/** No response was received. `sent` is false only when the request certainly did not reach the server. */
export class TransportFailure extends Error {
  /**
   * @param {string} reason
   * @param {boolean} sent
   * @param {unknown} [cause]
   */
  constructor(reason, sent, cause) {
    super(reason, { cause });
    this.sent = sent;
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
    if (!isAddress(baseUrl)) {
      throw new UmrgenError(`${JSON.stringify(baseUrl)} is not a server address`, {
        code: "bad_base_url",
        next: "Use the form http://host:port or https://host/prefix.",
      });
    }
    this.baseUrl = baseUrl.replace(/\/+$/, "");
    this.clock = clock;
    // A browser's `fetch` must be called as a function, not as a method of another object.
    this.#fetch = (/** @type {string} */ url, /** @type {RequestInit} */ init) => (fetcher ?? fetch)(url, init);
    if (apiKey) this.#headers.Authorization = `Bearer ${apiKey}`;
    if (new URL(baseUrl).hostname.endsWith(".share.zrok.io")) this.#headers.skip_zrok_interstitial = "1";
  }

  /**
   * Send one API request; the whole response must arrive within `timeout` seconds. Throws TransportFailure, or the
   * reason of `signal`.
   * @param {string} path
   * @param {Request} request
   * @param {number} timeout
   * @param {AbortSignal} [signal]
   * @returns {Promise<Reply>}
   */
  async send(path, request, timeout, signal) {
    const started = this.clock.now();
    const controller = new AbortController();
    const onTimeout = () => controller.abort(new TransportFailure(`no response within ${timeout.toFixed(1)} s`, true));
    return withTimeout(this.clock, timeout, onTimeout, async () => {
      const { status, headers, body } = await this.open(this.baseUrl + path, true, request, controller, signal);
      const text = await readText(body);
      const elapsed = this.clock.now() - started;
      return { status, headers, text, json: parseObject(text), elapsed, wall: this.clock.wall() };
    });
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
      throw new TransportFailure(reason(error), !wasNotSent(error), error);
    };
    const response = await this.#fetch(url, {
      method,
      headers: withKey ? { ...this.#headers, ...headers } : headers,
      body,
      signal: combined,
      redirect: "manual", // so that the API key is not sent to its target
      credentials: "omit",
      cache: "no-store",
    }).catch(fail);
    return {
      // A browser hides the target and the status of a redirect.
      status: response.type === "opaqueredirect" ? 302 : response.status,
      headers: response.headers,
      body: chunks(response, fail),
    };
  }
}

/**
 * @param {Response} response
 * @param {(error: unknown) => never} fail
 * @returns {AsyncGenerator<Uint8Array<ArrayBuffer>, void>}
 */
async function* chunks(response, fail) {
  const reader = response.body?.getReader();
  try {
    for (;;) {
      const read = await reader?.read().catch(fail);
      if (!read?.value) return;
      yield read.value;
    }
  } finally {
    reader?.cancel().catch(() => {});
  }
}

/**
 * Return the whole body of an API response as text.
 * @param {AsyncIterable<Uint8Array>} body
 */
export async function readText(body) {
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  for await (const part of body) {
    length += part.length;
    if (length > MAX_RESPONSE) throw new TransportFailure(`a response of over ${MAX_RESPONSE} bytes`, true);
    text += decoder.decode(part, { stream: true });
  }
  return text + decoder.decode();
}

/**
 * Return the JSON object in `text`, or null.
 * @param {string} text
 * @returns {Record<string, any> | null}
 */
export function parseObject(text) {
  try {
    const data = JSON.parse(text);
    return data && typeof data === "object" && !Array.isArray(data) ? data : null;
  } catch {
    return null;
  }
}

/** @param {string} url */
function isAddress(url) {
  try {
    const { protocol, search, hash, username } = new URL(url);
    return /^https?:$/.test(protocol) && !search && !hash && !username;
  } catch {
    return false;
  }
}

/** @param {any} error */
function reason(error) {
  return error?.cause?.message || error?.cause?.code || error?.message || String(error);
}

/**
 * Return whether a request failed before it was connected: Node reports that in `cause`, Bun in `code`, Deno in the
 * message. A browser does not report it; then the request may have reached the server.
 * @param {any} error
 */
function wasNotSent(error) {
  const { code = "", syscall = "" } = error?.cause ?? error ?? {};
  return (
    /^(connect|getaddrinfo)$/.test(syscall) ||
    /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|UND_ERR_CONNECT_TIMEOUT|ConnectionRefused)$/.test(code) ||
    /tcp connect error|dns error/.test(error?.message)
  );
}
