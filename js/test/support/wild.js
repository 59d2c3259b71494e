// Wild HTTP responses, made from a seed, and every call of the client against them.
//
//     node test/support/wild.js 100000 1        answers, seed
//
// A call may end with a result or an UmrgenError, within its deadline, and with printable texts. The server is a process
// of its own, so that the memory of this one is the client's. Without limits for V8, Node.js itself takes 118 MB for
// 2,000 status calls one after the other. The peak is that of Linux for this program (VmHWM): `maxRSS` of Node.js is
// at least that of the program that has started it.
import { fork } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { Umrgen, UmrgenError } from "../../src/index.js";
import { saveImage } from "../../src/node.js";
import { printable } from "../../src/text.js";

const KEY = "umr_wild_key_that_is_never_shown";
const JOB = "ext_1";
const TIMEOUT = 40;
/** Bytes after which the server ends an endless body that is still read. */
const ENDLESS_MOST = 64 << 20;
const IDLE_MS = 1000;
export const ENDLESS = Buffer.from("endless");

/** Return a function that returns random numbers in [0, 1), always the same for a seed (mulberry32). */
export function randomNumbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const TEXTS = ["", "x", "completed", "running", "failed", "cancelled", "\x1b[2J\x1b]0;t\x07\r\nok: saved", "\ud800", "\u202eevil", "NaN", "__proto__"];
TEXTS.push("a".repeat(3000), "//evil.example/x", "http://evil.example/x", "/outputs/a.png", `/${"y".repeat(70_000)}`, "ext_1/../x", KEY.slice(0, 3));
const NUMBERS = [0, -1, 1.5, 1e308, -1e308, 2 ** 53, 2 ** 64, 1e-9, 3, 1e15];
const NAMES = ["state", "job_id", "image_url", "results", "images", "url", "error", "error_code", "code", "queue_position"];
NAMES.push("eta_seconds", "progress", "step", "total", "seed", "retry_after_ms", "jobs", "unknown", "cursor", "next_cursor", "warnings");
NAMES.push("filename", "status", "active_job_id", "created_at", "imageUrl", "prompt", "next", "detail", "message", "engine", "__proto__", "toString");
const STATUSES = [200, 200, 200, 200, 201, 202, 204, 206, 299, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 413];
STATUSES.push(416, 418, 421, 422, 425, 429, 429, 431, 451, 460, 500, 501, 502, 503, 504, 511, 521, 599, 600, 999);
const HEADERS = ["Retry-After", "ETag", "Preference-Applied", "Location", "Content-Type", "Content-Range", "Date", "Repr-Digest"];
HEADERS.push("Content-Digest", "Last-Modified", "Set-Cookie", "Content-Encoding", "Age");
const VALUES = ["", "0", "-1", "9".repeat(400), "Jan 99999999999999 12:00:00 2024", "Wed, 99 Nov 2026 08:00:00 GMT", "1e9", '"v1"', 'W/"v1"'];
VALUES.push('"caf\xe9\x01"', "wait=25", "wait=9999", "http://[", "//evil.example", "http://evil.example/x", "text/html", "text/event-stream");
VALUES.push("application/json", "image/png", "bytes 0-9/10", "bytes 5-", "sha-256=:!!!:", `sha-256=:${"A".repeat(43)}=:`, "identity", "br", "x".repeat(7000));

/** One wild server's answers: bytes from random numbers. */
export class Answers {
  #random;

  constructor(random) {
    this.#random = random;
  }

  below(count) {
    return Math.floor(this.#random() * count);
  }

  pick(values) {
    return values[this.below(values.length)];
  }

  value(depth = 0) {
    switch (this.below(depth > 3 ? 6 : 9)) {
      case 0:
        return null;
      case 1:
        return this.below(2) === 0;
      case 2:
        return this.pick(NUMBERS);
      case 6:
        return Array.from({ length: this.below(4) }, () => this.value(depth + 1));
      case 7:
      case 8:
        return this.object(depth + 1);
      default:
        return this.pick(TEXTS);
    }
  }

  object(depth = 0) {
    return Object.fromEntries(Array.from({ length: this.below(6) }, () => [this.pick(NAMES), this.value(depth)]));
  }

  status() {
    const state = this.pick(["queued", "running", "completed", "completed", "failed", "paused"]);
    const known = { success: true, job_id: JOB, state, image_url: this.pick(["/outputs/a.png", null, "//x", 7]) };
    return { ...known, ...Object.fromEntries(Array.from({ length: this.below(3) }, () => [this.pick(NAMES), this.value()])) };
  }

  body() {
    const json = (value) => Buffer.from(JSON.stringify(value));
    switch (this.below(16)) {
      case 0:
        return Buffer.alloc(0);
      case 1:
        return Buffer.from("<!DOCTYPE html><html>\x1b[2J</html>");
      case 2:
        return Buffer.from(Array.from({ length: this.below(200) }, () => this.below(256)));
      case 3:
        return Buffer.from("[".repeat(this.pick([1, 100, 900, 100_000])));
      case 4:
        return Buffer.from(`{"state": "running", "x": ${"[".repeat(500)}${"]".repeat(500)}}`);
      case 5:
        return json(this.status()).subarray(0, -1 - this.below(20));
      case 6:
        return Buffer.from(JSON.stringify(this.value()), this.pick(["utf8", "utf16le"]));
      case 7:
        return Buffer.from('{"state": "running", "error": "caf\xe9", "seed": NaN}', "latin1");
      case 8:
        return Buffer.from("\x89PNG\r\n\x1a\n" + "x".repeat(this.below(60)), "latin1");
      case 9:
        return Buffer.from(`{"state": "running", "state": ${"9".repeat(this.pick([20, 6000]))}}`);
      case 10: {
        if (this.below(100)) return json(this.value());
        const count = this.pick([300_000, 1_300_000, 8_000_000]);
        return Buffer.from(`{"state": "running", "a": [${"[],".repeat(count)}0]}`);
      }
      case 11:
        return json(this.object());
      case 12:
        return Buffer.from(`event: status\nid: ${this.pick(TEXTS)}\nretry: ${this.pick(VALUES)}\ndata: ${json(this.status())}\n\n`);
      default:
        return json(this.status());
    }
  }

  framed(body) {
    switch (this.below(10)) {
      case 0:
        return [[], body];
      case 1: {
        const wrong = ["-1", "abc", "", String(body.length + 7), String(Math.max(0, body.length - 3)), "9".repeat(30), "+5", "1, 2"];
        return [[`Content-Length: ${this.pick(wrong)}`], body];
      }
      case 2: {
        const end = this.pick(["0\r\n\r\n", "", "zz\r\n", "-1\r\n"]);
        return [["Transfer-Encoding: chunked"], Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from(`\r\n${end}`)])];
      }
      case 3:
        return [["Content-Encoding: gzip", `Content-Length: ${body.length}`], body];
      case 4: {
        const packed = gzipSync(this.below(30) ? body : Buffer.alloc(32 << 20), { level: 1 });
        return [["Content-Encoding: gzip", `Content-Length: ${packed.length}`], packed];
      }
      default:
        return [[`Content-Length: ${body.length}`], body];
    }
  }

  one() {
    const kind = this.below(400);
    if (kind === 0) return ENDLESS;
    if (kind < 8) return Buffer.from(this.pick(["", "\x15\x03\x01\x00\x02", "HTTP/1.1\r\n\r\n", "HTTP/9.9 abc\r\n\r\n", "\x00\xff"]), "latin1");
    if (kind < 12) return Buffer.from(`HTTP/1.1 200 OK\r\n${"X: y\r\n".repeat(this.pick([99, 101, 20_000]))}\r\n{}`);
    const [length, body] = this.framed(this.body());
    const extra = Array.from({ length: this.below(4) }, () => `${this.pick(HEADERS)}: ${this.pick(VALUES)}`);
    const lines = [`HTTP/1.${this.pick("1110")} ${this.pick(STATUSES)} ${this.pick(["OK", "", "x".repeat(99)])}`, ...length, ...extra];
    return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), body]);
  }

  /** The answers to the requests of one call, the last of which is repeated; some begin with valid ones. */
  forCall(name) {
    const valid = this.below(3) ? (VALID[name] ?? []) : [];
    return [...valid, ...Array.from({ length: 1 + this.below(4) }, () => this.one())];
  }
}

const answer = (status, data) => {
  const body = JSON.stringify(data);
  return Buffer.from(`HTTP/1.1 ${status} OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
};
const RUNNING = answer(200, { job_id: JOB, state: "running" });
const COMPLETED = answer(200, { job_id: JOB, state: "completed", image_url: "/outputs/a.png" });
const RECEIPT = answer(202, { job_id: JOB, status_url: "/x" });
const VALID = {
  wait: [RUNNING],
  watch: [RUNNING],
  image: [COMPLETED],
  save: [COMPLETED],
  generate: [RECEIPT, COMPLETED],
  many: [answer(200, { jobs: [{ job_id: JOB, state: "running" }], cursor: "1", unknown: [] })],
};

async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

export const CALLS = {
  submit: (umrgen) => umrgen.submit("a boat"),
  status: (umrgen) => umrgen.job(JOB).status(),
  wait: (umrgen) => umrgen.job(JOB).wait(),
  watch: (umrgen) => all(umrgen.job(JOB)),
  events: (umrgen) => all(umrgen.job(JOB).events({ preview: true })),
  image: (umrgen) => umrgen.job(JOB).image(),
  save: (umrgen, folder) => saveImage(umrgen.job(JOB), join(folder, "a.png"), { overwrite: true }),
  generate: (umrgen) => umrgen.generate("a boat", { references: [] }),
  cancel: (umrgen) => umrgen.job(JOB).cancel(),
  many: (umrgen) => all(umrgen.asCompleted([umrgen.job(JOB), umrgen.job("ext_2")])),
  jobs: (umrgen) => umrgen.jobs(),
  upload: (umrgen) => umrgen.uploadReference(new Blob(["image"])),
  verify: (umrgen) => umrgen.verify(new Blob(["image"])),
  capabilities: (umrgen) => umrgen.capabilities(),
};

/** Start a server that sends the next of its answers to each request, then closes the connection. */
export async function wildServer() {
  const state = { answers: [ENDLESS], at: 0, sent: 0, endless: 0, url: "" };
  const server = createServer((socket) => {
    let request = Buffer.alloc(0);
    socket.on("error", () => {});
    const receive = (chunk) => {
      request = Buffer.concat([request, chunk]);
      const head = request.indexOf("\r\n\r\n");
      const length = Number(/content-length: *(\d+)/i.exec(request.toString("latin1"))?.[1] ?? 0);
      const chunked = /transfer-encoding: chunked/i.test(request.toString("latin1"));
      if (head < 0 || request.length < head + 4 + length || (chunked && !request.includes("\r\n0\r\n\r\n"))) return;
      socket.off("data", receive);
      const next = state.answers[Math.min(state.at++, state.answers.length - 1)];
      state.sent++;
      if (next === ENDLESS) sendEndless(socket, state);
      else socket.end(next);
    };
    socket.on("data", receive);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  state.url = `http://127.0.0.1:${server.address().port}`;
  return { state, close: () => server.close() };
}

function sendEndless(socket, state) {
  const chunk = Buffer.alloc(1 << 16, " ");
  const more = () => {
    while (!socket.destroyed && state.endless < ENDLESS_MOST) {
      state.endless += chunk.length;
      if (!socket.write(chunk)) return socket.once("drain", more);
    }
    socket.end();
  };
  socket.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n");
  more();
}

/**
 * A clock whose delays take no time. A time limit of a request passes only when nothing else happens for IDLE_MS: the
 * server responds at once, but some bodies (falsely declared as gzip) make `fetch` wait for ever.
 */
function jumpingClock() {
  let now = 0;
  /** @type {{at: number, resolve: () => void}[]} */
  let limits = [];
  const expire = () => {
    const next = limits.sort((one, other) => one.at - other.at).shift();
    if (!next) return;
    now = Math.max(now, next.at);
    next.resolve();
  };
  const sleep = (seconds, signal) =>
    new Promise((resolve, reject) => {
      if (!signal) {
        now += seconds;
        return resolve();
      }
      const limit = { at: now + seconds, resolve };
      limits.push(limit);
      const timer = setTimeout(expire, IDLE_MS);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        limits = limits.filter((other) => other !== limit);
        reject(signal.reason);
      });
    });
  return { now: () => now, wall: () => 1_800_000_000 + now, sleep };
}

/** Make one call of this server; return how it ended, and the rules that it broke. */
export async function runCall(url, name, folder) {
  const clock = jumpingClock();
  const shown = [];
  const onEvent = ({ message }) => shown.push(message);
  const options = { timeout: TIMEOUT, patience: 20, downloadTries: 3, clock, onEvent, random: () => 0.5 };
  const umrgen = new Umrgen({ baseUrl: url, apiKey: KEY, ...options });
  let end = "result";
  const problems = [];
  try {
    await CALLS[name](umrgen, folder);
  } catch (error) {
    end = error?.name;
    if (!(error instanceof UmrgenError)) problems.push(`${error?.stack ?? error}`);
    else shown.push(error.message, error.next, error.code, error.jobId ?? "");
  }
  for (const text of shown) {
    if (printable(text, Infinity) !== text) problems.push(`not printable: ${JSON.stringify(text)}`);
    if (text.includes(KEY)) problems.push("shows the key");
  }
  if (clock.now() > TIMEOUT + 0.1) problems.push(`ended after ${clock.now()} s`);
  return { end: `${name}: ${end}`, problems };
}

/** In a process of its own: choose the calls and their answers for the parent, and send the answers. */
async function serve(seed) {
  const random = new Answers(randomNumbers(seed));
  const { state } = await wildServer();
  process.on("disconnect", () => process.exit());
  process.on("message", (question) => {
    if (question === "answers") return process.send(state.answers.map((bytes) => bytes.toString("latin1", 0, 300)));
    const name = random.pick(Object.keys(CALLS));
    Object.assign(state, { answers: random.forCall(name), at: 0 });
    return process.send({ url: state.url, sent: state.sent, name });
  });
}

/** Make calls until the server has sent `count` answers; return the ends of the calls and the violations. */
export async function runWild(count, seed) {
  const folder = mkdtempSync(join(tmpdir(), "umrgen-wild-"));
  const server = fork(fileURLToPath(import.meta.url), ["serve", String(seed)], { execArgv: [] });
  const ask = async (question) => {
    server.send(question);
    return (await once(server, "message"))[0];
  };
  const ends = new Map();
  const violations = [];
  let sent = 0;
  try {
    while (violations.length < 5) {
      const next = await ask("next");
      sent = next.sent;
      if (sent >= count) break;
      const { end, problems } = await runCall(next.url, next.name, folder);
      ends.set(end, (ends.get(end) ?? 0) + 1);
      if (problems.length) violations.push(`${next.name}: ${problems}; answers ${JSON.stringify(await ask("answers"))}`);
    }
  } finally {
    server.disconnect();
    rmSync(folder, { recursive: true, force: true });
  }
  return { sent, ends, violations };
}

/** Return the most MiB that this program had in memory; NaN on other systems than Linux. */
function peakMemory() {
  const status = existsSync("/proc/self/status") ? readFileSync("/proc/self/status", "utf8") : "";
  return Math.round(Number(/VmHWM:\s*(\d+) kB/.exec(status)?.[1]) / 1024);
}

async function main(count, seed) {
  const started = performance.now();
  const { sent, ends, violations } = await runWild(count, seed);
  for (const [end, times] of [...ends].sort()) console.log(String(times).padStart(8), end);
  const calls = [...ends.values()].reduce((sum, times) => sum + times, 0);
  console.log(`${sent} answers, ${calls} calls, ${Math.round((performance.now() - started) / 1000)} s`);
  console.log(`peak memory ${peakMemory()} MB`);
  for (const violation of violations) console.log(`violation: ${violation}`);
  process.exit(violations.length ? 1 : 0);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === "serve") await serve(Number(process.argv[3]));
  else await main(Number(process.argv[2] ?? 100_000), Number(process.argv[3] ?? 1));
}
