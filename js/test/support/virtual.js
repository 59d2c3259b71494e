// A clock and a network that take no time: what the vectors are played on.
import assert from "node:assert/strict";

/** What a fake clock starts its wall at, in the Python client's tests too. */
const WALL = 1_800_000_000;

/** Rounds of the event loop without a new timer, after which nothing but time can move things on. */
const IDLE_ROUNDS = 5;

/** A clock that jumps to its next timer as soon as everything else has come to rest. */
export class VirtualClock {
  #now = 0;
  #timers = [];
  #running = false;

  now = () => this.#now;

  wall = () => WALL + this.#now;

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

const TOLD_HEADERS = ["Prefer", "If-None-Match", "Idempotency-Key"];

/**
 * A `fetch` that gives the answers of a vector, one for each request, and records the requests.
 *
 * An answer: `status`, `headers`, `body` (a text, or an object that goes as JSON), `after` seconds; or `fails`, with
 * `sent` whether it may have arrived. With `repeat`, the last one is given over and over.
 */
export function scripted(clock, baseUrl, { answers, repeat = false }) {
  const requests = [];
  const answer = async (url, { method, headers, body, signal, redirect }) => {
    assert.equal(redirect, "manual", "the key must not follow a redirect");
    const given = new Headers(headers);
    const told = TOLD_HEADERS.filter((name) => given.has(name)).map((name) => [name, given.get(name)]);
    const request = { at: clock.now(), method, path: url.slice(baseUrl.length), headers: Object.fromEntries(told) };
    requests.push(body === undefined ? request : { ...request, body: JSON.parse(body) });
    const next = answers[requests.length - 1] ?? (repeat ? answers.at(-1) : undefined);
    assert.ok(next, `there is no answer for request ${requests.length}: ${method} ${url}`);
    if (next.after) await clock.sleep(next.after, signal);
    if (next.fails) {
      throw new TypeError("fetch failed", { cause: { code: next.sent ? "ECONNRESET" : "ECONNREFUSED" } });
    }
    const text = typeof next.body === "string" ? next.body : JSON.stringify(next.body);
    return new Response(next.status === 304 ? null : text, { status: next.status, headers: next.headers });
  };
  return { fetch: answer, requests };
}
