// The client against servers with faults, of this version (modern) and of the first one (legacy).
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, it } from "node:test";
import { inspect } from "node:util";
import * as errors from "../src/index.js";
import { pollAndDownload, saveImage } from "../src/node.js";
import { folder, openFaultServers } from "./support/servers.js";

const { Umrgen } = errors;
const start = openFaultServers();

/** Short intervals, so that faults pass quickly; the rules are tested separately, with a virtual clock. */
const QUICK = {
  timeout: 8,
  wait: 1,
  patience: 3,
  submitPatience: 2,
  queuedInterval: 0.02,
  runningInterval: 0.02,
  firstBackoff: 0.01,
  longestBackoff: 0.05,
  requestTimeout: 0.4,
  dripWindow: 0.2,
};

/** A longer timeout for a loaded machine, where a request must not time out. */
const LONG_TIMEOUT = { requestTimeout: 5 };

/** Bytes of an image that is larger than one chunk, because the last chunk of a broken stream is lost. */
const LARGE = 400_000;

const IMAGES = "GET /outputs/*";
const STATUS = "GET /api/v1/status/*";
const SUBMIT = "POST /api/v1/generate";

const root = folder();

/** The folder of this test's files. */
let directory = "";
beforeEach(() => {
  directory = mkdtempSync(join(root, "test-"));
});

const client = ({ url, key }, options = {}) => new Umrgen({ baseUrl: url, apiKey: key, ...QUICK, ...options });

/** Return a check of an error's public properties. */
const like = (Kind, code, more = {}) => {
  return (error) => {
    assert.equal(error.constructor, Kind, inspect(error));
    assert.equal(error.code, code);
    for (const [name, value] of Object.entries(more)) assert.equal(error[name], value, name);
    return true;
  };
};

const sentTo = (requests, method, prefix) => requests.filter((one) => one.method === method && one.path.startsWith(prefix));

for (const mode of ["modern", "legacy"]) {
  const modern = mode === "modern";

  describe(`${mode}: from a prompt to a file`, () => {
    it("in memory", async () => {
      const server = await start(mode);
      const image = await client(server).generate("a boat", { width: 512, negative: "fog" });
      assert.equal(image.mediaType, "image/png");
      assert.equal((await errors.verify(image.bytes)).sha256, image.sha256);
      const { jobs, requests } = await server.state();
      const [submit] = sentTo(requests, "POST", "/api/v1/generate");
      const { seed, ...request } = JSON.parse(Buffer.from(submit.body, "base64"));
      assert.equal(image.seed, seed, "the client's own seed can be reported");
      assert.deepEqual(request, { prompt: "a boat", width: 512, negative: "fog" });
      assert.equal(jobs.length, 1);
      assert.match(submit.headers["idempotency-key"], /^[0-9a-f]{32}$/);
    });

    it("on disk, by pollAndDownload", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      const saved = await pollAndDownload(job.id, server.key, { baseUrl: server.url, to: directory, ...QUICK });
      assert.equal(saved.path, join(directory, `${job.id}.png`));
      assert.equal(readFileSync(saved.path).length, saved.size);
      assert.deepEqual(readdirSync(directory), [`${job.id}.png`]);
    });

    it("each state, and every image of a job", async () => {
      const server = await start(mode, { images: 3, job_seconds: 0.2 });
      const job = await client(server).submit("a boat");
      const states = [];
      for await (const status of job) states.push(status.state);
      assert.equal(states[0], "running");
      assert.equal(states.at(-1), "completed");
      assert.equal(job.outcome.images.length, 3);
      const images = await Promise.all([0, 1, 2].map((index) => job.image({ index })));
      assert.equal(new Set(images.map((image) => image.sha256)).size, 3);
      await assert.rejects(job.image({ index: 3 }), like(errors.OutputMissing, "output_missing", { jobId: job.id }));
    });

    it("with a path prefix", async () => {
      const server = await start(mode, { prefix: "/umrgen" });
      const image = await client(server).generate("a boat");
      assert.ok(image.bytes.length > 100);
    });

    it("a failed job, and a job without images", async () => {
      const failing = await start(mode, { fail: "engine_failed" });
      const code = modern ? "engine_failed" : "job_failed";
      await assert.rejects(client(failing).generate("a boat"), like(errors.JobFailed, code));
      if (modern) return; // a server of today completes no job without an image
      const empty = await start(mode, { images: 0 });
      await assert.rejects(client(empty).generate("a boat"), like(errors.OutputMissing, "output_missing"));
    });
  });

  describe(`${mode}: the download`, () => {
    for (const [name, fault] of [
      ["a truncated body", ["Truncate", { share: 0.4 }]],
      ["a reset", ["Reset", { after_headers: true, share: 0.4 }]],
      ["a slow body", ["Drip", { bytes_per_chunk: 2000, interval: 0.01 }]],
    ]) {
      it(`${name} is resumed`, async () => {
        const server = await start(mode, { image: LARGE });
        const job = await client(server).submit("a boat");
        const whole = await job.image();
        await server.on(IMAGES, [fault]);
        // Two windows of 0.1 s: a slow body sends some 40,000 bytes in them, with pauses of 10 ms.
        const saved = await saveImage(job, join(directory, "boat.png"), { dripWindow: 0.1, dripRate: 1e6 });
        assert.equal(saved.sha256, whole.sha256);
        assert.deepEqual(readdirSync(directory), ["boat.png"]);
        const ranges = sentTo((await server.state()).requests, "GET", "/outputs/").map(({ headers }) => !!headers.range);
        assert.deepEqual(ranges, [false, false, true]);
      });
    }

    it("sends Range and If-Range when it is resumed", async () => {
      const server = await start(mode, { image: LARGE });
      const job = await client(server).submit("a boat");
      await server.on(IMAGES, [["Truncate", { share: 0.5 }]]);
      await saveImage(job, join(directory, "boat.png"));
      const [first, second] = sentTo((await server.state()).requests, "GET", "/outputs/");
      assert.equal(first.headers.range, undefined);
      assert.match(second.headers.range, /^bytes=[1-9]\d*-$/);
      assert.match(second.headers["accept-encoding"], /^identity(, identity)?$/); // fetch adds its own value with a range
      assert.equal(/^"/.test(second.headers["if-range"]), modern, "If-Range does not allow weak validators");
    });

    it("starts again when the image has changed", async () => {
      const server = await start(mode, { image: LARGE });
      const job = await client(server).submit("a boat");
      const other = { "Content-Range": "bytes 0-9/10", ETag: '"other"' };
      await server.on(IMAGES, [
        ["Truncate", {}],
        ["Respond", { status: 206, body: "0123456789", headers: other }],
      ]);
      const image = await job.image();
      assert.equal((await errors.verify(image.bytes)).sha256, image.sha256);
      const ranges = sentTo((await server.state()).requests, "GET", "/outputs/").map(({ headers }) => !!headers.range);
      assert.deepEqual(ranges, [false, true, false]);
    });

    it("fetches a damaged image again, and never saves it", async () => {
      const server = await start(mode);
      const umrgen = client(server);
      const target = join(directory, "boat.png");
      await server.on(IMAGES, [["Tamper", { change: "flip" }]]);
      const saved = await saveImage(await umrgen.submit("a boat"), target);
      assert.ok(saved.size > 100);
      await server.on(IMAGES, [["Tamper", { change: "flip" }]], null);
      const job = await umrgen.submit("a boat");
      await assert.rejects(saveImage(job, join(directory, "other.png")), like(errors.OutputCorrupt, "output_corrupt"));
      assert.deepEqual(readdirSync(directory), ["boat.png"]);
    });

    for (const [name, fault] of [
      ["an HTML page", ["HtmlPage", {}]],
      ["JSON", ["Respond", { body: { error: "gone" } }]],
      ["a wrong digest", ["Tamper", { headers: { "Repr-Digest": `sha-256=:${"A".repeat(43)}=:` } }]],
    ]) {
      it(`${name} instead of the image is an error`, async () => {
        const server = await start(mode);
        await server.on(IMAGES, [fault], null);
        const job = await client(server).submit("a boat");
        const corrupt = like(errors.OutputCorrupt, "output_corrupt", { jobId: job.id, retryable: true });
        await assert.rejects(saveImage(job, join(directory, "boat.png")), corrupt);
        assert.deepEqual(readdirSync(directory), []);
      });
    }

    for (const [status, Kind, code] of [
      [403, errors.OutputForbidden, "output_forbidden"],
      [404, errors.OutputMissing, "output_not_found"],
      [410, errors.OutputMissing, "output_expired"],
    ]) {
      it(`${status} is followed by one new status call`, async () => {
        const server = await start(mode);
        await server.on(IMAGES, [["Respond", { status }]]);
        const image = await client(server).generate("a boat");
        assert.ok(image.bytes.length > 100);
        await server.on(IMAGES, [["Respond", { status }]], null);
        const before = (await server.state()).requests.length;
        const umrgen = client(server);
        await assert.rejects(umrgen.job(image.jobId).image(), like(Kind, code, { jobId: image.jobId }));
        const { requests } = await server.state();
        assert.deepEqual(
          requests.slice(before).map(({ path }) => path.split("/")[1]),
          ["api", "outputs", "api", "outputs"],
        );
      });
    }

    it("is retried after 503 and 429", async () => {
      const server = await start(mode);
      await server.on(IMAGES, [
        ["Respond", { status: 503 }],
        ["Respond", { status: 429, headers: { "Retry-After": "0" } }],
      ]);
      assert.ok((await client(server).generate("a boat")).bytes.length > 100);
    });

    it("has a maximum size", async () => {
      const server = await start(mode);
      await assert.rejects(
        client(server).generate("a boat", { maxBytes: 100 }),
        like(errors.OutputCorrupt, "too_large"),
      );
    });
  });

  describe(`${mode}: the API key`, () => {
    it("is not sent across a redirect", async () => {
      const [server, evil] = await Promise.all([start(mode), start("modern")]);
      const umrgen = client(server, LONG_TIMEOUT); // each fault occurs once, and the request must reach it
      const job = await umrgen.submit("a boat");
      // Of a job that was seen, it may be a gateway's, and is retried.
      await server.on(STATUS, [["Redirect", { location: `${evil.url}/api/v1/status/${job.id}` }]]);
      assert.ok((await job.status()).state);
      await server.on(SUBMIT, [["Redirect", { location: `${evil.url}/api/v1/generate` }]]);
      await assert.rejects(umrgen.submit("a boat"), like(errors.NotUmrgen, "not_umrgen"));
      await server.on(IMAGES, [["Redirect", { location: `${evil.url}/outputs/x.png` }]]);
      assert.ok((await job.image()).bytes.length > 100);
      await server.on(IMAGES, [["Redirect", { location: `${evil.url}/outputs/x.png` }]], null);
      await assert.rejects(job.image({ patience: 0.1 }), like(errors.OutputForbidden, "foreign_output"));
      assert.deepEqual((await evil.state()).requests, []);
    });

    it("is sent to a redirect of an image within the origin", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      const { imageUrl } = await job.wait();
      await server.on(IMAGES, [["Redirect", { location: imageUrl }]]);
      assert.ok((await job.image()).bytes.length > 100);
      await server.on(IMAGES, [["Redirect", { location: imageUrl }]], null);
      await assert.rejects(job.image(), like(errors.OutputCorrupt, "redirect_loop"));
    });

    it("is not sent for an image on another server, which needs followForeign", async () => {
      const evil = await start("modern");
      const original = await client(evil).generate("a boat");
      const { path } = sentTo((await evil.state()).requests, "GET", "/outputs/")[0];
      const server = await start(mode);
      await server.on(STATUS, [["Tamper", { image_url: evil.url + path }]], null);
      const job = await client(server).submit("a boat");
      await assert.rejects(job.image(), like(errors.OutputForbidden, "foreign_output", { jobId: job.id }));
      const image = await job.image({ followForeign: true });
      assert.equal(image.sha256, original.sha256);
      const seen = sentTo((await evil.state()).requests, "GET", "/outputs/");
      assert.equal(seen.length, 2);
      assert.equal(seen[1].headers.authorization, undefined);
    });

    it("is not part of errors or inspected objects", async () => {
      const server = await start(mode, { key: "another-key-of-the-server" });
      const umrgen = client({ url: server.url, key: "the-secret-key" });
      const error = await umrgen.generate("a boat").catch((thrown) => thrown);
      like(errors.Unauthorized, "unauthorized")(error);
      const shown = [
        inspect(error, { depth: 9 }),
        inspect(umrgen, { depth: 9, showHidden: true }),
        JSON.stringify(umrgen),
      ];
      for (const text of shown) assert.doesNotMatch(text, /secret-key/);
    });
  });

  describe(`${mode}: a submit`, () => {
    it("that was sent creates one job, or reports that it may have", async () => {
      const server = await start(mode);
      await server.on(SUBMIT, [["Reset", { share: 0 }]]);
      const result = await client(server)
        .submit("a boat")
        .catch((error) => error);
      const { jobs, requests } = await server.state();
      assert.equal(jobs.length, 1);
      const submits = sentTo(requests, "POST", "/api/v1/generate");
      assert.equal(result.id, jobs[0].id);
      // An older server has no idempotency keys: its job is searched for.
      assert.equal(submits.length, modern ? 2 : 1);
      assert.equal(new Set(submits.map(({ headers }) => headers["idempotency-key"])).size, 1);
    });

    it("that was not sent is repeated", async () => {
      const server = await start(mode);
      await server.refuse(0.3);
      assert.match((await client(server).submit("a boat")).id, /^ext_/);
      assert.equal((await server.state()).jobs.length, 1);
    });

    it("to an unreachable server ends early, and reports that no job was created", async () => {
      const server = await start(mode);
      await server.refuse(null);
      const failed = like(errors.ConnectionFailed, "connection_failed", { sent: false, retryable: true });
      await assert.rejects(client(server, { submitPatience: 0.1 }).submit("a boat"), failed);
    });

    it("waits for a slot with waitForSlot", async () => {
      const server = await start(mode, { concurrency: 1, job_seconds: 0.3 });
      const umrgen = client(server);
      const first = await umrgen.submit("a boat");
      const taken = like(errors.ConcurrencyLimit, "concurrent_limit", { jobId: first.id });
      await assert.rejects(umrgen.submit("a boat"), taken);
      const second = await umrgen.submit("a boat", { waitForSlot: true });
      assert.notEqual(second.id, first.id);
    });
  });

  describe(`${mode}: a wait`, () => {
    it("is retried after resets, HTML pages, truncated responses and a network failure", async () => {
      const server = await start(mode, { job_seconds: 0.2 });
      const job = await client(server).submit("a boat");
      await server.on(STATUS, [
        ["Reset", {}],
        ["HtmlPage", {}],
        ["Truncate", {}],
        ["Respond", { status: 502 }],
        ["NoResponse", {}],
      ]);
      await server.refuse(0.2);
      assert.equal((await job.wait()).state, "completed");
    });

    it("ends at its deadline, and the job continues", async () => {
      const server = await start(mode, { job_seconds: 3600 });
      const umrgen = client(server, { timeout: 0.5 });
      const job = await umrgen.submit("a boat");
      const timeout = like(errors.WaitTimeout, "wait_timeout", { jobId: job.id, retryable: true });
      await assert.rejects(job.wait(), timeout);
      assert.equal((await job.status()).state, "running", "the next call must have a new deadline");
      await server.on(STATUS, [["NoResponse", {}]], null);
      await assert.rejects(job.wait(), timeout);
    });

    it("has one deadline for submit, wait and download", async () => {
      const server = await start(mode);
      await server.on(IMAGES, [["NoResponse", {}]], null);
      const begun = performance.now();
      const options = { timeout: 0.6, requestTimeout: 30, dripWindow: 30 };
      await assert.rejects(client(server, options).generate("a boat"), like(errors.WaitTimeout, "wait_timeout"));
      assert.ok(performance.now() - begun < 3000);
    });

    it("ends a backoff when it is aborted, with the reason of the signal", async () => {
      const server = await start(mode);
      const controller = new AbortController();
      const job = await client(server).submit("a boat", { signal: controller.signal });
      await server.on(STATUS, [["Respond", { status: 503, headers: { "Retry-After": "5" } }]], null);
      const reason = new Error("enough");
      const onEvent = ({ kind }) => kind === "retrying" && controller.abort(reason);
      const begun = performance.now();
      await assert.rejects(job.wait({ onEvent, timeout: 60, patience: 60 }), (error) => error === reason);
      assert.ok(performance.now() - begun < 2000);
      await assert.rejects(job.status(), (error) => error === reason, "the signal of the submit must apply to its job");
    });

    it("ends a long poll and a download when it is aborted", async () => {
      const server = await start(mode, { job_seconds: 3600 });
      const job = await client(server, { requestTimeout: 60, timeout: 60 }).submit("a boat");
      await server.on(STATUS, [["NoResponse", {}]]);
      const kinds = [];
      const call = { signal: AbortSignal.timeout(50), onEvent: ({ kind }) => kinds.push(kind) };
      await assert.rejects(job.wait(call), { name: "TimeoutError" });
      assert.ok(!kinds.includes("retrying"), "an abort must not be retried");
      const other = await start(mode);
      const controller = new AbortController();
      const onEvent = ({ kind }) => kind === "download" && controller.abort();
      const finished = await client(other).submit("a boat");
      const target = join(directory, "boat.png");
      await assert.rejects(saveImage(finished, target, { signal: controller.signal, onEvent }), { name: "AbortError" });
      assert.deepEqual(readdirSync(directory), []);
    });

    it("reports a deleted job by another code than an unknown one", async () => {
      const server = await start(mode, { job_seconds: 3600 });
      const umrgen = client(server);
      const job = await umrgen.submit("a boat");
      const [polled, watched] = [umrgen.job(job.id), umrgen.job(job.id)];
      await polled.status();
      for await (const status of watched) if (status) break;
      await server.on(STATUS, [["Respond", { status: 404, body: { error: "Job not found" } }]], null);
      for (const seen of [job, polled, watched]) {
        await assert.rejects(seen.wait(), like(errors.JobNotFound, "job_gone", { jobId: job.id }));
      }
      await assert.rejects(umrgen.job("ext_unknown").wait(), like(errors.JobNotFound, "job_not_found"));
      const other = umrgen.job(job.id);
      await assert.rejects(other.status(), like(errors.JobNotFound, "job_not_found"));
    });

    it("for several jobs", async () => {
      const server = await start(mode, { workers: 2, concurrency: null, fail: { 1: "engine_failed" } });
      const umrgen = client(server);
      const jobs = [];
      for (const prompt of ["one", "two", "three"]) jobs.push(await umrgen.submit(prompt));
      const finished = [];
      for await (const job of umrgen.asCompleted(jobs)) finished.push(job);
      assert.deepEqual(new Set(finished), new Set(jobs));
      assert.deepEqual(
        jobs.map((job) => job.outcome.state),
        ["completed", "failed", "completed"],
      );
      assert.ok((await jobs[2].image()).bytes.length > 100);
      await assert.rejects(jobs[1].image(), like(errors.JobFailed, modern ? "engine_failed" : "job_failed"));
      const waits = sentTo((await server.state()).requests, "GET", "/api/v1/status/");
      assert.equal(waits.length > 0, !modern, "batch calls must be used when supported");
    });
  });

  describe(`${mode}: the file`, () => {
    it("is replaced only with overwrite", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      const target = join(directory, "boat.png");
      writeFileSync(target, "other");
      const before = (await server.state()).requests.length;
      const exists = like(errors.TargetUnusable, "target_exists");
      await assert.rejects(saveImage(job, target), exists);
      assert.equal((await server.state()).requests.length, before, "no request must be sent");
      assert.equal(readFileSync(target, "utf8"), "other");
      await saveImage(job, target, { overwrite: true });
      assert.notEqual(readFileSync(target, "utf8"), "other");
      assert.deepEqual(readdirSync(directory), ["boat.png"]);
    });

    it("is not replaced when it appears during the download", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      const target = join(directory, "boat.png");
      const onEvent = ({ kind }) => kind === "download" && writeFileSync(target, "other");
      await assert.rejects(saveImage(job, target, { onEvent }), like(errors.TargetUnusable, "target_exists"));
      assert.equal(readFileSync(target, "utf8"), "other");
      assert.deepEqual(readdirSync(directory), ["boat.png"]);
    });

    it("is complete after concurrent downloads", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      await job.wait();
      const target = join(directory, "boat.png");
      const results = await Promise.allSettled(Array.from({ length: 6 }, () => saveImage(job, target)));
      const saved = results.filter(({ status }) => status === "fulfilled");
      assert.equal(saved.length, 1);
      for (const { reason } of results) if (reason) like(errors.TargetUnusable, "target_exists")(reason);
      assert.deepEqual(readdirSync(directory), ["boat.png"]);
      const bytes = new Uint8Array(readFileSync(target));
      assert.equal((await errors.verify(bytes)).sha256, saved[0].value.sha256);
    });

    it("needs a folder", async () => {
      const server = await start(mode);
      const job = client(server).job("ext_1");
      for (const target of [join(directory, "no", "boat.png"), join(directory, "no/")]) {
        await assert.rejects(
          saveImage(job, target),
          like(errors.TargetUnusable, "target_unusable", { jobId: "ext_1" }),
        );
      }
      assert.equal(existsSync(join(directory, "no")), false);
      assert.deepEqual((await server.state()).requests, []);
    });

    it("has the extension of its actual type when it is named after the job", async () => {
      const jpeg = "/9j/4AAGSkZJRv/AAAsIABgAKAEBEQD/2gACEjT/2Q==";
      const server = await start(mode, { image: jpeg });
      const job = await client(server).submit("a boat");
      assert.equal((await saveImage(job, directory)).path, join(directory, `${job.id}.jpg`));
      assert.equal((await saveImage(job, join(directory, "chosen.png"))).mediaType, "image/jpeg");
      assert.deepEqual(readdirSync(directory).sort(), ["chosen.png", `${job.id}.jpg`]);
    });
  });
}

describe("an older server", () => {
  it("does not support some calls", async () => {
    const server = await start("legacy");
    const umrgen = client(server);
    const job = await umrgen.submit("a boat");
    const unsupported = like(errors.Unsupported, "unsupported", { status: 404 });
    await assert.rejects(job.cancel(), unsupported);
    await assert.rejects(umrgen.jobs(), unsupported);
    await assert.rejects(umrgen.capabilities(), unsupported);
    await assert.rejects(job.events().next(), unsupported);
  });

  it("loses its jobs in a restart", async () => {
    const server = await start("legacy", { job_seconds: 3600 });
    const job = await client(server).submit("a boat");
    await server.restart();
    await assert.rejects(job.wait(), like(errors.JobNotFound, "job_gone"));
  });

  it("behind a tunnel's page is reported as not UMRGEN", async () => {
    const server = await start("legacy", { interstitial: true });
    const options = { garbageTries: 1 };
    await assert.rejects(client(server, options).job("ext_1").wait(), like(errors.NotUmrgen, "not_umrgen"));
  });
});

describe("a reference image", () => {
  it("is uploaded as a file, once", async () => {
    const server = await start("modern");
    const uploaded = { success: true, filename: "ref_1.png", url: "/references/ref_1.png" };
    await server.on("POST /api/v1/upload-reference", [
      ["Respond", { body: uploaded }],
      ["NoResponse", {}],
    ]);
    const umrgen = client(server);
    const file = new File(["\xff\xd8\xffcontent"].map((text) => Buffer.from(text, "latin1")), "file.png");
    assert.deepEqual(await umrgen.uploadReference(file), { filename: uploaded.filename, url: uploaded.url });
    await assert.rejects(umrgen.uploadReference(file), like(errors.ConnectionFailed, "connection_failed"));
    const uploads = sentTo((await server.state()).requests, "POST", "/api/v1/upload-reference");
    assert.equal(uploads.length, 2, "a request that may have been processed must not be repeated");
    const [{ headers, body }] = uploads;
    assert.match(headers["content-type"], /^multipart\/form-data; boundary=/);
    const text = Buffer.from(body, "base64").toString("latin1");
    const name = /name="file"; filename="reference-[0-9a-f]{32}.jpg"\r\nContent-Type: image\/jpeg\r\n\r\n\xff\xd8\xffcontent\r\n/;
    assert.match(text, name, "a unique name with the extension of the content");
  });
});

describe("the first servers", () => {
  it("take a reference from a Blob; the newer version has none", async () => {
    const server = await start("legacy");
    const umrgen = client(server);
    const { bytes } = await umrgen.generate("a boat");
    const job = await umrgen.submit("a boat", { references: [new Blob([bytes])] });
    assert.ok((await job.image()).bytes.length > 100);
    const [{ body }] = sentTo((await server.state()).requests, "POST", "/api/v1/upload-reference");
    assert.match(Buffer.from(body, "base64").toString("latin1"), /filename="reference-[0-9a-f]{32}\.png"/);
    const newer = await start("legacy", { newer_version: true });
    const refused = client(newer).submit("a boat", { references: [new Blob([bytes])] });
    await assert.rejects(refused, like(errors.Unsupported, "unsupported"));
  });

  it("clamp sizes and ignore parameters, which are warnings", async () => {
    const server = await start("legacy");
    const warnings = [];
    const onEvent = ({ kind, message }) => kind === "warning" && warnings.push(message);
    const image = await client(server, { onEvent }).generate("a boat", { width: 100, priority: 1, seed: 7 });
    assert.equal(image.seed, 7);
    assert.match(warnings[0], /ignores priority/);
    assert.match(warnings[1], /pixels; the request was for width 100/);
    assert.equal(warnings.length, 2);
  });

  it("still list the image of a job that they have forgotten", async () => {
    const server = await start("legacy");
    const { jobId, sha256 } = await client(server).generate("a boat");
    await server.restart();
    assert.equal((await client(server).job(jobId).image()).sha256, sha256);
  });
});
