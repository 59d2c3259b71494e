// What only shows on a clock of one's own: deadlines that pass, and transfers that come in pieces.
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

/** A client on a clock of its own; `answer` gives the response to a path. */
function client(answer, options = {}) {
  const clock = new VirtualClock();
  const asked = [];
  const fetch = async (url, { headers, signal }) => {
    const request = {
      at: Math.round(clock.now()),
      path: url.slice(BASE.length),
      headers: new Headers(headers),
      signal,
    };
    asked.push(request);
    return answer(request, asked.length);
  };
  return { umrgen: new Umrgen({ baseUrl: BASE, clock, fetch, random: () => 0.5, ...options }), clock, asked };
}

describe("a submit's deadline", () => {
  const running = ({ path }) =>
    path.endsWith("/generate")
      ? Response.json({ job_id: "ext_1" }, { status: 202 })
      : Response.json({ state: "running" });

  it("is its job's, whatever passes in between", async () => {
    const { umrgen, clock } = client(running, { timeout: 100 });
    const job = await umrgen.submit("x");
    await clock.sleep(90);
    await assert.rejects(job.wait(), { code: "wait_timeout", jobId: "ext_1" });
    assert.ok(clock.now() > 95 && clock.now() <= 100);
  });

  it("does not hold once it was said, or has passed", async () => {
    const { umrgen, clock } = client(running, { timeout: 100 });
    const job = await umrgen.submit("x");
    await assert.rejects(job.wait(), { code: "wait_timeout" });
    const said = clock.now();
    await assert.rejects(job.wait(), { code: "wait_timeout" });
    assert.ok(clock.now() - said > 95, "the next wait has its own time");
    const later = await umrgen.submit("x");
    await clock.sleep(500);
    assert.equal((await later.status()).state, "running");
  });

  it("gives way to another for one call, and a client's may be none", async () => {
    const { umrgen, clock } = client(running, { timeout: null });
    const job = await umrgen.submit("x");
    await assert.rejects(job.wait({ timeout: 30 }), { code: "wait_timeout" });
    assert.ok(clock.now() > 25 && clock.now() <= 30);
  });

  it("counts a hang in an image's headers, and in its body", async () => {
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

describe("a transfer in pieces", () => {
  /** Gives at most `most` bytes an answer, of whatever `file` is then. */
  const pieces = (file, most) => (request, count) => {
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

  it("is put together, each asked for where the last one ended", async () => {
    const { umrgen, asked } = client(pieces(() => PNG, 100));
    const image = await umrgen.job("ext_1").image();
    assert.deepEqual(Buffer.from(image.bytes), PNG);
    const ranges = asked.slice(1).map(({ headers }) => headers.get("range"));
    assert.deepEqual(ranges, [null, "bytes=100-", "bytes=200-", ...(PNG.length > 300 ? ["bytes=300-"] : [])]);
    assert.ok(asked.slice(2).every(({ headers }) => headers.get("if-range") === `"${PNG.length}"`));
  });

  it("of a larger version is thrown away for a smaller one", async () => {
    const large = Buffer.concat([PNG, PNG, PNG]);
    const place = folder();
    // A disk takes real time.
    const options = { clock: systemClock, firstBackoff: 0.001, longestBackoff: 0.001 };
    const { umrgen } = client(
      pieces((count) => (count < 7 ? large : PNG), 120),
      options,
    );
    const saved = await saveImage(umrgen.job("ext_1"), join(place, "a.png"));
    assert.equal(saved.size, PNG.length);
    assert.deepEqual(readFileSync(saved.path), PNG);
    assert.deepEqual(readdirSync(place), ["a.png"]);
  });

  it("that gets nowhere is given up", async () => {
    const { umrgen, asked } = client(pieces(() => PNG, 0));
    await assert.rejects(umrgen.job("ext_1").image(), { code: "connection_failed", jobId: "ext_1" });
    assert.equal(asked.length, 1 + 5);
  });
});

describe("the system's clock", () => {
  it("sleeps, and leaves nothing behind when it is woken", async () => {
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

  it("can sleep for ever", async () => {
    const controller = new AbortController();
    const forEver = systemClock.sleep(Infinity, controller.signal).catch((error) => error.message);
    assert.equal(await Promise.race([forEver, systemClock.sleep(0.02).then(() => "20 ms")]), "20 ms");
    controller.abort(new Error("up"));
    assert.equal(await forEver, "up");
  });
});
