// The client as a user types it, against the real server.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import * as errors from "../src/index.js";
import { pollAndDownload, saveImage } from "../src/node.js";
import { folder, realServer } from "./support/servers.js";

const { Umrgen } = errors;
const server = await realServer();
const umrgen = new Umrgen({ baseUrl: server.url, apiKey: server.key });
const SMALL = { width: 512, height: 512, steps: 1 };

describe("the real server", () => {
  it("gives an image for a prompt", async () => {
    const image = await umrgen.generate("a boat", { ...SMALL, seed: 3 });
    assert.deepEqual([image.width, image.height, image.seed, image.engine], [512, 512, 3, "procedural"]);
    assert.equal((await errors.verify(image.bytes)).sha256, image.sha256);
  });

  it("in the five lines of the README", async () => {
    const place = folder();
    const job = await umrgen.submit("a lighthouse at dusk", { ...SMALL, signal: AbortSignal.timeout(60_000) });
    const states = [];
    for await (const status of job) states.push(status.state);
    assert.equal(states.at(-1), "completed");
    const saved = await saveImage(job, join(place, "lighthouse.png"));
    const bytes = new Uint8Array(readFileSync(saved.path));
    assert.equal((await errors.verify(bytes, { length: saved.size })).sha256, saved.sha256);
    const again = await pollAndDownload(job.id, server.key, { baseUrl: server.url, to: place });
    assert.equal(again.sha256, saved.sha256);
  });

  it("takes three requests for it", async () => {
    const asked = [];
    const counting = (url, init) => {
      asked.push(`${init.method} ${new URL(url).pathname.split("/").slice(0, 4).join("/")}`);
      return fetch(url, init);
    };
    await new Umrgen({ baseUrl: server.url, apiKey: server.key, fetch: counting }).generate("a boat", SMALL);
    assert.deepEqual(asked.slice(0, 2), ["POST /api/v1/generate", "GET /api/v1/status"]);
    assert.match(asked[2], /^GET \/outputs\//);
    assert.equal(asked.length, 3);
  });

  it("uploads a reference image and draws by it", async () => {
    const first = await umrgen.generate("a boat", { ...SMALL, seed: 5 });
    const { filename } = await umrgen.uploadReference(new Blob([first.bytes]));
    assert.match(filename, /^ref_[0-9a-f]{32}\.png$/);
    const guided = await umrgen.generate("a boat", { ...SMALL, seed: 5, referenceImages: [filename] });
    assert.notEqual(guided.sha256, first.sha256);
    await assert.rejects(umrgen.uploadReference(new Blob(["<svg/>"])), { code: "unsupported_media_type" });
  });

  it("lists jobs by pages, newest first", async () => {
    const made = [];
    for (const prompt of ["one", "two", "three"]) made.unshift((await umrgen.submit(prompt, SMALL)).id);
    const first = await umrgen.jobs({ limit: 2 });
    const second = await umrgen.jobs({ limit: 2, cursor: first.nextCursor });
    const listed = [...first.jobs, ...second.jobs];
    assert.deepEqual(
      listed.slice(0, 3).map(({ jobId }) => jobId),
      made,
    );
    assert.equal(listed[0].raw.prompt, "three");
    assert.equal((await umrgen.jobs({ state: "failed" })).jobs.length, 0);
  });

  it("waits for many over one connection, and knows what it does not know", async () => {
    const jobs = await Promise.all(["one", "two"].map((prompt) => umrgen.submit(prompt, SMALL)));
    const stranger = umrgen.job("ext_nobody");
    const over = [];
    for await (const job of umrgen.asCompleted([...jobs, stranger])) over.push(job);
    assert.deepEqual(new Set(over), new Set([...jobs, stranger]));
    assert.equal(stranger.outcome.code, "job_not_found");
    assert.ok(jobs.every((job) => job.outcome.state === "completed"));
  });

  it("cancels, and says so twice", async () => {
    const job = await umrgen.submit("a boat", { ...SMALL, steps: 50, width: 2048, height: 2048 });
    assert.equal((await job.cancel()).errorCode, "cancelled");
    assert.equal((await job.cancel()).errorCode, "cancelled");
    await assert.rejects(job.wait(), (error) => error instanceof errors.JobFailed && error.code === "cancelled");
    await assert.rejects(umrgen.job("ext_nobody").cancel(), (error) => error instanceof errors.JobNotFound);
  });

  it("says what it can do, and what is wrong with a request", async () => {
    assert.equal((await umrgen.capabilities()).engine.name, "procedural");
    await assert.rejects(umrgen.submit("a boat", { width: 3 }), (error) => {
      assert.ok(error instanceof errors.InvalidRequest);
      assert.match(error.message, /width/);
      assert.equal(error.status, 400);
      return true;
    });
    const stranger = new Umrgen({ baseUrl: server.url, apiKey: "umr_wrong" });
    await assert.rejects(stranger.submit("a boat"), (error) => error instanceof errors.Unauthorized);
  });

  it("gives one job for one idempotency key", async () => {
    const options = { ...SMALL, idempotencyKey: "mine" };
    const [one, two] = [await umrgen.submit("a boat", options), await umrgen.submit("a boat", options)];
    assert.equal(one.id, two.id);
    await assert.rejects(umrgen.submit("a ship", options), { code: "idempotency_conflict" });
  });
});

describe("what is said at once", () => {
  it("a bad address", () => {
    for (const baseUrl of ["", "host", "ftp://host", "http://host?x", "http://host#x", "http://user:pw@host"]) {
      assert.throws(() => new Umrgen({ baseUrl }), { code: "bad_base_url" }, baseUrl);
    }
    assert.equal(new Umrgen({ baseUrl: "https://host/prefix//" }).baseUrl, "https://host/prefix");
  });

  it("a bad job id", () => {
    for (const id of ["", "../x", "a/b", "x".repeat(200), "-x", "a?b"]) {
      assert.throws(() => umrgen.job(id), { code: "bad_job_id" }, id);
    }
  });

  it("an option that does not exist", async () => {
    assert.throws(() => new Umrgen({ baseUrl: server.url, timeOut: 3 }), TypeError);
    await assert.rejects(umrgen.job("ext_1").wait({ patient: 3 }), TypeError);
  });

  it("no server at all, to the guide's function", async () => {
    await assert.rejects(pollAndDownload("ext_1", "key"), { code: "no_server" });
  });
});

describe("a page over plain HTTP", () => {
  it("has no digests, and checks all else", async () => {
    const known = Object.getOwnPropertyDescriptor(globalThis, "crypto");
    const { bytes } = await umrgen.generate("a boat", SMALL);
    Object.defineProperty(globalThis, "crypto", { value: {}, configurable: true });
    try {
      const facts = await errors.verify(bytes, { length: bytes.length, sha256: "00" });
      assert.deepEqual([facts.sha256, facts.width], [null, 512]);
      await assert.rejects(errors.verify(bytes.slice(0, -1)), { code: "output_corrupt" });
    } finally {
      Object.defineProperty(globalThis, "crypto", known);
    }
  });
});

describe("a public share of zrok", () => {
  it("is told to skip its page, and nobody else is", async () => {
    const seen = new Map();
    const fake = async (url, { headers }) => {
      seen.set(url, new Headers(headers));
      if (!url.includes("/status/")) return new Response("<html>");
      return Response.json({ state: "completed", image_url: "https://elsewhere.example/a.png" });
    };
    const shared = new Umrgen({
      baseUrl: "https://umrgen.share.zrok.io",
      apiKey: "k",
      fetch: fake,
      followForeign: true,
    });
    await assert.rejects(shared.job("ext_1").image(), { code: "output_corrupt" });
    const own = seen.get("https://umrgen.share.zrok.io/api/v1/status/ext_1");
    assert.deepEqual([own.get("skip_zrok_interstitial"), own.get("authorization")], ["1", "Bearer k"]);
    const foreign = seen.get("https://elsewhere.example/a.png");
    assert.deepEqual([foreign.get("skip_zrok_interstitial"), foreign.get("authorization")], [null, null]);
    const like = new Umrgen({ baseUrl: "https://share.zrok.io.evil.example", apiKey: "k", fetch: fake });
    await like.job("ext_1").status();
    assert.equal(
      seen.get("https://share.zrok.io.evil.example/api/v1/status/ext_1").get("skip_zrok_interstitial"),
      null,
    );
  });
});
