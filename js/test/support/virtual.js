// A virtual clock and network, for tests without real time.
import assert from "node:assert/strict";

/** The wall-clock time at which a virtual clock starts, as in the Python client's tests. */
const WALL = 1_800_000_000;

/** Rounds of the event loop without a new timer, after which the clock moves to the next one. */
const IDLE_ROUNDS = 5;

/** A clock that moves to its next timer when no other work is left. */
export class VirtualClock {
  #now = 0;
  #timers = [];
  #running = false;

  now = () => this.#now;

  wall = () => WALL + this.#now;

  /** Let time pass without this program, as while it is stopped: its timers are late. */
  stop = (seconds) => {
    this.#now += seconds;
  };

  sleep = (seconds, signal) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const timer = { at: this.#now + seconds, resolve };
      this.#timers.push(timer);
      signal?.addEventListener("abort", () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
        reject(signal.reason);
      });
      this.#run();
    });

  async #run() {
    if (this.#running) return;
    this.#running = true;
    while (this.#timers.length) {
      for (let round = 0; round < IDLE_ROUNDS; round++) await new Promise(setImmediate);
      this.#timers.sort((one, other) => one.at - other.at);
      const timer = this.#timers.shift();
      if (!timer) break;
      this.#now = Math.max(this.#now, timer.at);
      timer.resolve();
    }
    this.#running = false;
  }
}

const RECORDED_HEADERS = ["Prefer", "If-None-Match", "Idempotency-Key"];

/**
 * Return a `fetch` that returns the responses of a vector, one for each request, and the recorded requests.
 *
 * A response has `status`, `headers`, `body` (a text, or an object for JSON) and `after` seconds; or `fails`, with `sent`
 * for a request that may have reached the server. With `repeat`, the last one is repeated.
 */
export function scripted(clock, baseUrl, { answers, repeat = false }) {
  const requests = [];
  const respond = async (url, { method, headers, body, signal, redirect }) => {
    assert.equal(redirect, "manual", "a redirect must not be followed");
    const given = new Headers(headers);
    const recorded = RECORDED_HEADERS.filter((name) => given.has(name)).map((name) => [name, given.get(name)]);
    const request = { at: clock.now(), method, path: url.slice(baseUrl.length), headers: Object.fromEntries(recorded) };
    requests.push(body === undefined ? request : { ...request, body: JSON.parse(body) });
    const next = answers[requests.length - 1] ?? (repeat ? answers.at(-1) : undefined);
    assert.ok(next, `no response for request ${requests.length}: ${method} ${url}`);
    if (next.after) await clock.sleep(next.after, signal);
    if (next.fails) {
      throw new TypeError("fetch failed", { cause: { code: next.sent ? "ECONNRESET" : "ECONNREFUSED" } });
    }
    const text = typeof next.body === "string" ? next.body : JSON.stringify(next.body);
    // As `fetch` returns the bytes of a header.
    const values = Object.entries(next.headers ?? {}).map(([name, value]) => [name, Buffer.from(value).toString("latin1")]);
    return new Response([204, 304].includes(next.status) ? null : text, { status: next.status, headers: values });
  };
  return { fetch: respond, requests };
}
