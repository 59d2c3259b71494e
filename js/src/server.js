// One server: its address, the key that goes to its origin only, and requests to it with `fetch`.
import { within } from "./clock.js";
import { UmrgenError } from "./errors.js";

/** @import { Clock } from "./clock.js" */

/** Bytes of an API answer; what is longer is not this API's. */
const MAX_ANSWER = 32 * 1024 * 1024;

/** There was no answer. `sent` is false only when the request provably never arrived. */
export class Failure extends Error {
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
 * An answer. `at` is the clock's time of its end, `elapsed` the seconds from sending to there, `wall` for dates.
 * @typedef {object} Reply
 * @property {number} status
 * @property {Headers} headers
 * @property {string} text
 * @property {Record<string, any> | null} json the JSON object in the body, or null when there is none
 * @property {number} elapsed
 * @property {number} wall
 */

/** @typedef {{method?: string, headers?: Record<string, string>, body?: string | FormData}} Request */

export class Server {
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
      throw new UmrgenError(`${JSON.stringify(baseUrl)} is no server address`, {
        code: "bad_base_url",
        next: "Use the form http://host:port or https://host/prefix.",
      });
    }
    this.baseUrl = baseUrl.replace(/\/+$/, "");
    this.clock = clock;
    // A browser's own insists on being called as a function, not as somebody's method.
    this.#fetch = (/** @type {string} */ url, /** @type {RequestInit} */ init) => (fetcher ?? fetch)(url, init);
    if (apiKey) this.#headers.Authorization = `Bearer ${apiKey}`;
    if (new URL(baseUrl).hostname.endsWith(".share.zrok.io")) this.#headers.skip_zrok_interstitial = "1";
  }

  /**
   * One request to the API, its whole answer within `timeout` seconds. Throws Failure, or `signal`'s reason.
   * @param {string} path
   * @param {Request} request
   * @param {number} timeout
   * @param {AbortSignal} [signal]
   * @returns {Promise<Reply>}
   */
  async send(path, request, timeout, signal) {
    const started = this.clock.now();
    const cut = new AbortController();
    const late = () => cut.abort(new Failure(`no answer within ${timeout.toFixed(1)} s`, true));
    return within(this.clock, timeout, late, async () => {
      const { status, headers, body } = await this.open(this.baseUrl + path, true, request, cut, signal);
      const text = await textOf(body);
      const elapsed = this.clock.now() - started;
      return { status, headers, text, json: object(text), elapsed, wall: this.clock.wall() };
    });
  }

  /**
   * One request, up to its answer's headers; the chunks of `body` follow. Aborting `cut` breaks it off with
   * that reason. Throws Failure, or `signal`'s reason.
   * @param {string} url
   * @param {boolean} withKey
   * @param {Request} request
   * @param {AbortController} cut
   * @param {AbortSignal} [signal]
   */
  async open(url, withKey, { method = "GET", headers, body }, cut, signal) {
    const both = signal ? AbortSignal.any([signal, cut.signal]) : cut.signal;
    /** @type {(error: unknown) => never} */
    const fail = (error) => {
      signal?.throwIfAborted();
      throw cut.signal.aborted ? cut.signal.reason : new Failure(reason(error), !neverArrived(error), error);
    };
    const response = await this.#fetch(url, {
      method,
      headers: withKey ? { ...this.#headers, ...headers } : headers,
      body,
      signal: both,
      redirect: "manual", // so the key never follows one
      credentials: "omit",
      cache: "no-store",
    }).catch(fail);
    return {
      // A browser hides where a redirect leads, and even its status.
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
 * The whole of an API's answer.
 * @param {AsyncIterable<Uint8Array>} body
 */
export async function textOf(body) {
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  for await (const part of body) {
    length += part.length;
    if (length > MAX_ANSWER) throw new Failure("the answer is endless", true);
    text += decoder.decode(part, { stream: true });
  }
  return text + decoder.decode();
}

/**
 * @param {string} text
 * @returns {Record<string, any> | null}
 */
export function object(text) {
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
 * Whether a request failed before there was a connection. Node says so in `cause`, Bun in `code`, Deno in
 * words; a browser never does, and then it may have arrived.
 * @param {any} error
 */
function neverArrived(error) {
  const { code = "", syscall = "" } = error?.cause ?? error ?? {};
  return (
    /^(connect|getaddrinfo)$/.test(syscall) ||
    /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|UND_ERR_CONNECT_TIMEOUT|ConnectionRefused)$/.test(code) ||
    /tcp connect error|dns error/.test(error?.message)
  );
}
