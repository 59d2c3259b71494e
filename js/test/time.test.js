// Tests with a virtual clock: deadlines, and downloads in parts.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { Umrgen } from "../src/index.js";
import { systemClock } from "../src/clock.js";
import { saveImage } from "../src/node.js";
import { folder } from "./support/servers.js";
import { VirtualClock } from "./support/virtual.js";

const BASE = "http://umrgen.example";
const IMAGE = "/outputs/s/a.png?session_id=s";

const vectors = readFileSync(new URL("../../tests/vectors/images.json", import.meta.url), "utf8");
const PNG = Buffer.from(JSON.parse(vectors).images.find(({ name }) => name === "a PNG").base64, "base64");

/** Return a client with a virtual clock; `respond` returns the response to a request. */
function client(respond, options = {}) {
  const clock = new VirtualClock();
  const requests = [];
  const fetch = async (url, { headers, signal }) => {
    const request = {
      at: Math.round(clock.now()),
      path: url.slice(BASE.length),
      headers: new Headers(headers),
      signal,
    };
    requests.push(request);
    return respond(request, requests.length);
  };
  return { umrgen: new Umrgen({ baseUrl: BASE, clock, fetch, random: () => 0.5, ...options }), clock, requests };
}

it("ends a download whose deadline passes while a chunk is written, also when the platform does not end the body", async () => {
  const body = () => new ReadableStream({ start: (controller) => controller.enqueue(PNG.subarray(0, 10)) });
  const { umrgen, clock } = client(({ path }) =>
    path.startsWith("/outputs/") ? new Response(body(), { headers: { "Content-Type": "image/png" } }) : Response.json({ state: "completed", image_url: IMAGE }),
  );
  const sink = { begin: async () => {}, write: () => clock.sleep(60), read: async () => new Uint8Array() };
  await assert.rejects(umrgen.job("ext_1").download(sink, { timeout: 50, dripWindow: 600 }), { code: "wait_timeout" });
});

describe("a submit's deadline", () => {
  const running = ({ path }) =>
    path.endsWith("/generate")
      ? Response.json({ job_id: "ext_1" }, { status: 202 })
      : Response.json({ state: "running" });

  it("applies to the later calls of its job", async () => {
    const { umrgen, clock } = client(running, { timeout: 100 });
    const job = await umrgen.submit("x");
    await clock.sleep(90);
    await assert.rejects(job.wait(), { code: "wait_timeout", jobId: "ext_1" });
    assert.ok(clock.now() > 95 && clock.now() <= 100);
  });

  it("does not apply after it was thrown or has passed", async () => {
    const { umrgen, clock } = client(running, { timeout: 100 });
    const job = await umrgen.submit("x");
    await assert.rejects(job.wait(), { code: "wait_timeout" });
    const thrownAt = clock.now();
    await assert.rejects(job.wait(), { code: "wait_timeout" });
    assert.ok(clock.now() - thrownAt > 95, "the next wait has a new deadline");
    const later = await umrgen.submit("x");
    await clock.sleep(500);
    assert.equal((await later.status()).state, "running");
  });

  it("can be changed for one call, or turned off", async () => {
    const { umrgen, clock } = client(running, { timeout: null });
    const job = await umrgen.submit("x");
    await assert.rejects(job.wait({ timeout: 30 }), { code: "wait_timeout" });
    assert.ok(clock.now() > 25 && clock.now() <= 30);
  });

  it("ends a download without headers or without a body", async () => {
    const hang = (signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    for (const begun of [false, true]) {
      const { umrgen, clock } = client(
        ({ path, signal }) => {
          if (path.includes("/status/")) return Response.json({ state: "completed", image_url: IMAGE });
          if (!begun) return hang(signal);
          return new Response(
            new ReadableStream({ start: (controller) => hang(signal).catch((error) => controller.error(error)) }),
          );
        },
        { timeout: 45, downloadTries: 99 },
      );
      await assert.rejects(umrgen.job("ext_1").image(), { code: "wait_timeout", jobId: "ext_1" });
      assert.ok(clock.now() > 40 && clock.now() <= 45.001, `${clock.now()}`);
    }
  });
});

describe("a program that was stopped", () => {
  const hang = (signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

  /** Return a client that is stopped for an hour during its second status call, and later gets `state`. */
  const stopped = (state, options) => {
    const made = client(({ path, signal }, count) => {
      if (!path.includes("/status/")) return new Response(PNG);
      if (count !== 2) return Response.json(count === 1 ? { state: "running" } : state);
      made.clock.stop(3600);
      return hang(signal);
    }, options);
    return made;
  };

  it("looks once more after its deadline, and fetches the image of a job that has completed", async () => {
    const { umrgen } = stopped({ state: "completed", image_url: IMAGE });
    assert.deepEqual(Buffer.from((await umrgen.job("ext_1").image()).bytes), PNG);
  });

  it("reports in the timeout of a job that still runs for how long it was stopped", async () => {
    const { umrgen, clock } = stopped({ state: "running" });
    await assert.rejects(umrgen.job("ext_1").wait(), { code: "wait_timeout", message: /for 3545 s of the time/ });
    assert.ok(clock.now() < 3600 + 80);
  });

  it("does not take the standstill for a stall of the job", async () => {
    const { umrgen } = stopped({ state: "running", progress: { step: 1, total: 9 } }, { onStall: "raise" });
    await assert.rejects(umrgen.job("ext_1").wait({ timeout: 30 }), { code: "wait_timeout" });
  });
});

describe("a download in parts", () => {
  /** Return a function that responds with at most `most` bytes of the current `file`. */
  const inParts = (file, most) => (request, count) => {
    if (request.path.includes("/status/")) return Response.json({ state: "completed", image_url: IMAGE });
    const bytes = file(count);
    const etag = `"${bytes.length}"`;
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
    const body = new Uint8Array(bytes).slice(from, from + most);
    const range = `bytes ${from}-${from + body.length - 1}/${bytes.length}`;
    if (request.headers.has("range"))
      return new Response(body, { status: 206, headers: { ETag: etag, "Content-Range": range } });
    return new Response(body, { headers: { ETag: etag, "Content-Length": String(bytes.length) } });
  };

  it("is completed by range requests", async () => {
    const { umrgen, requests } = client(inParts(() => PNG, 100));
    const image = await umrgen.job("ext_1").image();
    assert.deepEqual(Buffer.from(image.bytes), PNG);
    const ranges = requests.slice(1).map(({ headers }) => headers.get("range"));
    assert.deepEqual(ranges, [null, "bytes=100-", "bytes=200-", ...(PNG.length > 300 ? ["bytes=300-"] : [])]);
    assert.ok(requests.slice(2).every(({ headers }) => headers.get("if-range") === `"${PNG.length}"`));
  });

  it("starts again when the file is replaced by a smaller one", async () => {
    const large = Buffer.concat([PNG, PNG, PNG]);
    const directory = folder();
    // Writing to a disk takes real time.
    const options = { clock: systemClock, firstBackoff: 0.001, longestBackoff: 0.001 };
    const { umrgen } = client(
      inParts((count) => (count < 7 ? large : PNG), 120),
      options,
    );
    const saved = await saveImage(umrgen.job("ext_1"), join(directory, "a.png"));
    assert.equal(saved.size, PNG.length);
    assert.deepEqual(readFileSync(saved.path), PNG);
    assert.deepEqual(readdirSync(directory), ["a.png"]);
  });

  it("fails after attempts without a new byte", async () => {
    const { umrgen, requests } = client(inParts(() => PNG, 0));
    await assert.rejects(umrgen.job("ext_1").image(), { code: "connection_failed", jobId: "ext_1" });
    assert.equal(requests.length, 1 + 5);
  });
});

describe("the system's clock", () => {
  it("sleeps, and removes its timer when it is aborted", async () => {
    const before = performance.now();
    await systemClock.sleep(0.01);
    assert.ok(performance.now() - before >= 9);
    const controller = new AbortController();
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
    const running = timers();
    const sleeps = [systemClock.sleep(3600, controller.signal), systemClock.sleep(Infinity, controller.signal)];
    assert.equal(timers(), running + 2);
    controller.abort(new Error("up"));
    for (const sleep of sleeps) await assert.rejects(sleep, /up/);
    assert.equal(timers(), running);
    await assert.rejects(systemClock.sleep(3600, controller.signal), /up/);
    assert.equal(timers(), running);
  });

  it("can sleep without an end", async () => {
    const controller = new AbortController();
    const endless = systemClock.sleep(Infinity, controller.signal).catch((error) => error.message);
    assert.equal(await Promise.race([endless, systemClock.sleep(0.02).then(() => "20 ms")]), "20 ms");
    controller.abort(new Error("up"));
    assert.equal(await endless, "up");
  });
});
