// The client against a real server.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import * as errors from "../src/index.js";
import { pollAndDownload, saveImage } from "../src/node.js";
import { inspect } from "../src/provenance.js";
import { folder, realServer } from "./support/servers.js";

const { Umrgen } = errors;
const server = await realServer();
const umrgen = new Umrgen({ baseUrl: server.url, apiKey: server.key });
const SMALL = { width: 512, height: 512, steps: 1 };

describe("with a real server", () => {
  it("generates an image", async () => {
    const image = await umrgen.generate("a boat", { ...SMALL, seed: 3 });
    assert.deepEqual([image.width, image.height, image.seed, image.engine], [512, 512, 3, "procedural"]);
    assert.equal((await errors.verify(image.bytes)).sha256, image.sha256);
  });

  it("runs the sample of the README", async () => {
    const directory = folder();
    const job = await umrgen.submit("a lighthouse at dusk", { ...SMALL, signal: AbortSignal.timeout(60_000) });
    const states = [];
    for await (const status of job) states.push(status.state);
    assert.equal(states.at(-1), "completed");
    const saved = await saveImage(job, join(directory, "lighthouse.png"));
    const bytes = new Uint8Array(readFileSync(saved.path));
    assert.equal((await errors.verify(bytes, { length: saved.size })).sha256, saved.sha256);
    const again = await pollAndDownload(job.id, server.key, { baseUrl: server.url, to: directory });
    assert.equal(again.sha256, saved.sha256);
  });

  it("sends three requests for an image", async () => {
    const requests = [];
    const counting = (url, init) => {
      requests.push(`${init.method} ${new URL(url).pathname.split("/").slice(0, 4).join("/")}`);
      return fetch(url, init);
    };
    await new Umrgen({ baseUrl: server.url, apiKey: server.key, fetch: counting }).generate("a boat", SMALL);
    assert.deepEqual(requests.slice(0, 2), ["POST /api/v1/generate", "GET /api/v1/status"]);
    assert.match(requests[2], /^GET \/outputs\//);
    assert.equal(requests.length, 3);
  });

  it("uploads and uses a reference image", async () => {
    const first = await umrgen.generate("a boat", { ...SMALL, seed: 5 });
    const { filename } = await umrgen.uploadReference(new Blob([first.bytes]));
    assert.match(filename, /^ref_[0-9a-f]{32}\.png$/);
    const guided = await umrgen.generate("a boat", { ...SMALL, seed: 5, referenceImages: [filename] });
    assert.notEqual(guided.sha256, first.sha256);
    await assert.rejects(umrgen.uploadReference(new Blob(["<svg/>"])), { code: "unsupported_media_type" });
  });

  it("keeps requests on the server", async () => {
    const stored = await umrgen.saveTemplate("für: noir", { prompt: "a street at night", steps: 8 });
    assert.deepEqual([stored.name, stored.request.steps], ["für: noir", 8]);
    assert.deepEqual(await umrgen.templates(), [stored]);
    await assert.rejects(umrgen.saveTemplate("a/b", {}), { code: "invalid_request" });
    await umrgen.deleteTemplate("für: noir");
    assert.deepEqual(await umrgen.templates(), []);
  });

  it("asks the server whether it made an image", async () => {
    const image = await umrgen.generate("a red boat", { ...SMALL, seed: 6 });
    const found = await umrgen.verify(new Blob([image.bytes]));
    assert.deepEqual([found.madeHere, found.distance, found.jobId], ["exact", 0, image.jobId]);
    assert.deepEqual(found.manifest, { present: false, valid: null, signer: null, trusted: false });
    assert.ok(found.createdAt > 1.7e12);
    const { mark, record } = await inspect(new Blob([image.bytes]));
    assert.deepEqual([mark, record.prompt, record.seed], ["marked", "a red boat", 6]);
    await assert.rejects(umrgen.verify(new Blob(["<svg/>"])), { code: "unsupported_media_type" });
  });

  it("lists jobs by pages, newest first", async () => {
    const ids = [];
    for (const prompt of ["one", "two", "three"]) ids.unshift((await umrgen.submit(prompt, SMALL)).id);
    const first = await umrgen.jobs({ limit: 2 });
    const second = await umrgen.jobs({ limit: 2, cursor: first.nextCursor });
    const listed = [...first.jobs, ...second.jobs];
    assert.deepEqual(
      listed.slice(0, 3).map(({ jobId }) => jobId),
      ids,
    );
    assert.equal(listed[0].raw.prompt, "three");
    assert.equal((await umrgen.jobs({ state: "failed" })).jobs.length, 0);
  });

  it("waits for several jobs, and reports an unknown one", async () => {
    const jobs = await Promise.all(["one", "two"].map((prompt) => umrgen.submit(prompt, SMALL)));
    const unknown = umrgen.job("ext_unknown");
    const finished = [];
    for await (const job of umrgen.asCompleted([...jobs, unknown])) finished.push(job);
    assert.deepEqual(new Set(finished), new Set([...jobs, unknown]));
    assert.equal(unknown.outcome.code, "job_not_found");
    assert.ok(jobs.every((job) => job.outcome.state === "completed"));
  });

  it("cancels a job, repeatedly", async () => {
    const job = await umrgen.submit("a boat", { ...SMALL, steps: 50, width: 2048, height: 2048 });
    assert.equal((await job.cancel()).errorCode, "cancelled");
    assert.equal((await job.cancel()).errorCode, "cancelled");
    await assert.rejects(job.wait(), (error) => error instanceof errors.JobFailed && error.code === "cancelled");
    await assert.rejects(umrgen.job("ext_unknown").cancel(), (error) => error instanceof errors.JobNotFound);
  });

  it("finds, marks and deletes jobs", async () => {
    const job = await umrgen.submit("a zeppelin over the stra\u00dfe", SMALL);
    await job.wait();
    const found = await umrgen.jobs({ search: "STRASSE zeppelin", after: new Date(Date.now() - 60_000) });
    assert.deepEqual(
      found.jobs.map(({ jobId }) => jobId),
      [job.id],
    );
    assert.deepEqual((await umrgen.jobs({ search: "zeppelin", favorite: true })).jobs, []);
    assert.deepEqual((await umrgen.jobs({ search: "zeppelin", before: 1000 })).jobs, []);
    assert.equal((await job.favorite()).raw.favorite, true);
    assert.equal((await umrgen.jobs({ favorite: true, engine: "procedural" })).jobs[0].jobId, job.id);
    assert.equal((await job.favorite(false)).raw.favorite, false);
    await job.delete();
    await job.delete();
    await assert.rejects(job.status(), (error) => error instanceof errors.JobNotFound);
    const second = await umrgen.submit("two", SMALL);
    assert.deepEqual(await umrgen.deleteJobs([job, second.id, "ext_unknown"]), ["ext_unknown"]);
    await assert.rejects(umrgen.job("ext_unknown").delete(), (error) => error instanceof errors.JobNotFound);
  });

  it("returns capabilities and describes invalid requests", async () => {
    assert.equal((await umrgen.capabilities()).engine.name, "procedural");
    await assert.rejects(umrgen.submit("a boat", { width: 3 }), (error) => {
      assert.ok(error instanceof errors.InvalidRequest);
      assert.match(error.message, /width/);
      assert.equal(error.status, 400);
      return true;
    });
    const other = new Umrgen({ baseUrl: server.url, apiKey: "umr_wrong" });
    await assert.rejects(other.submit("a boat"), (error) => error instanceof errors.Unauthorized);
  });

  it("creates one job for one idempotency key", async () => {
    const options = { ...SMALL, idempotencyKey: "key-1" };
    const [one, two] = [await umrgen.submit("a boat", options), await umrgen.submit("a boat", options)];
    assert.equal(one.id, two.id);
    await assert.rejects(umrgen.submit("a ship", options), { code: "idempotency_conflict" });
  });
});

describe("invalid arguments", () => {
  it("an invalid address", () => {
    for (const baseUrl of ["", "host", "ftp://host", "http://host?x", "http://host#x", "http://user:pw@host"]) {
      assert.throws(() => new Umrgen({ baseUrl }), { code: "bad_base_url" }, baseUrl);
    }
    assert.equal(new Umrgen({ baseUrl: "https://host/prefix//" }).baseUrl, "https://host/prefix");
  });

  it("an invalid job id", () => {
    for (const id of ["", "../x", "a/b", "x".repeat(200), "-x", "a?b"]) {
      assert.throws(() => umrgen.job(id), { code: "bad_job_id" }, id);
    }
  });

  it("an unknown option", async () => {
    assert.throws(() => new Umrgen({ baseUrl: server.url, timeOut: 3 }), TypeError);
    await assert.rejects(umrgen.job("ext_1").wait({ patient: 3 }), TypeError);
  });

  it("pollAndDownload without a server", async () => {
    await assert.rejects(pollAndDownload("ext_1", "key"), { code: "no_server" });
  });
});

describe("a page over plain HTTP", () => {
  it("verifies images without digests", async () => {
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
  it("gets the header that skips its page, and no other server does", async () => {
    const seen = new Map();
    const fakeFetch = async (url, { headers }) => {
      seen.set(url, new Headers(headers));
      if (!url.includes("/status/")) return new Response("<html>");
      return Response.json({ state: "completed", image_url: "https://elsewhere.example/a.png" });
    };
    const shared = new Umrgen({
      baseUrl: "https://umrgen.share.zrok.io",
      apiKey: "k",
      fetch: fakeFetch,
      followForeign: true,
      patience: 0,
    });
    await assert.rejects(shared.job("ext_1").image(), { code: "output_corrupt" });
    const own = seen.get("https://umrgen.share.zrok.io/api/v1/status/ext_1");
    assert.deepEqual([own.get("skip_zrok_interstitial"), own.get("authorization")], ["1", "Bearer k"]);
    const foreign = seen.get("https://elsewhere.example/a.png");
    assert.deepEqual([foreign.get("skip_zrok_interstitial"), foreign.get("authorization")], [null, null]);
    const like = new Umrgen({ baseUrl: "https://share.zrok.io.evil.example", apiKey: "k", fetch: fakeFetch });
    await like.job("ext_1").status();
    assert.equal(
      seen.get("https://share.zrok.io.evil.example/api/v1/status/ext_1").get("skip_zrok_interstitial"),
      null,
    );
  });
});
