// Against servers that misbehave on demand, after the contract and like the first ones.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, it } from "node:test";
import { inspect } from "node:util";
import * as errors from "../src/index.js";
import { pollAndDownload, saveImage } from "../src/node.js";
import { folder, openStage } from "./support/servers.js";

const { Umrgen } = errors;
const start = openStage();

/** Numbers that make trouble pass quickly; the rules are tested on their own, without a clock. */
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

/** For a busy machine: where an answer must not be given up on. */
const PATIENT = { requestTimeout: 5 };

/** Bytes of an image that does not come in one piece: what a broken stream still holds is lost. */
const LARGE = 400_000;

const IMAGES = "GET /outputs/*";
const STATUS = "GET /api/v1/status/*";
const SUBMIT = "POST /api/v1/generate";

const root = folder();

/** Where this test's files go. */
let place = "";
beforeEach(() => {
  place = mkdtempSync(join(root, "test-"));
});

const client = ({ url, key }, options = {}) => new Umrgen({ baseUrl: url, apiKey: key, ...QUICK, ...options });

/** What an error looks like, as far as a caller may rely on it. */
const like = (Kind, code, more = {}) => {
  return (error) => {
    assert.equal(error.constructor, Kind, inspect(error));
    assert.equal(error.code, code);
    for (const [name, value] of Object.entries(more)) assert.equal(error[name], value, name);
    return true;
  };
};

const to = (requests, method, prefix) => requests.filter((one) => one.method === method && one.path.startsWith(prefix));

for (const mode of ["modern", "legacy"]) {
  const modern = mode === "modern";

  describe(`${mode}: from a prompt to a file`, () => {
    it("in memory", async () => {
      const server = await start(mode);
      const image = await client(server).generate("a boat", {
        width: 512,
        negative: "fog",
        referenceImages: ["a.png"],
      });
      assert.equal(image.mediaType, "image/png");
      assert.equal((await errors.verify(image.bytes)).sha256, image.sha256);
      const { jobs, requests } = await server.seen();
      const request = { prompt: "a boat", width: 512, negative: "fog", reference_images: ["a.png"] };
      assert.deepEqual(jobs[0].request, request);
      assert.match(to(requests, "POST", "/api/v1/generate")[0].headers["idempotency-key"], /^[0-9a-f]{32}$/);
    });

    it("on disk, by the guide's function", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      const saved = await pollAndDownload(job.id, server.key, { baseUrl: server.url, to: place, ...QUICK });
      assert.equal(saved.path, join(place, `${job.id}.png`));
      assert.equal(readFileSync(saved.path).length, saved.size);
      assert.deepEqual(readdirSync(place), [`${job.id}.png`]);
    });

    it("the states on the way, and every image of a batch", async () => {
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

    it("behind a prefix", async () => {
      const server = await start(mode, { prefix: "/umrgen" });
      const image = await client(server).generate("a boat");
      assert.ok(image.bytes.length > 100);
    });

    it("a failed job, and the empty result", async () => {
      const failing = await start(mode, { fail: "engine_failed" });
      const code = modern ? "engine_failed" : "job_failed";
      await assert.rejects(client(failing).generate("a boat"), like(errors.JobFailed, code));
      const empty = await start(mode, { images: 0 });
      await assert.rejects(client(empty).generate("a boat"), like(errors.OutputMissing, "output_missing"));
    });
  });

  describe(`${mode}: the download`, () => {
    for (const [name, fault] of [
      ["a cut", ["Cut", { share: 0.4 }]],
      ["a reset", ["Reset", { after_headers: true, share: 0.4 }]],
      ["a drip", ["Drip", { bytes_per_chunk: 2000, interval: 0.01 }]],
    ]) {
      it(`${name} is taken up where it stopped`, async () => {
        const server = await start(mode, { image: LARGE });
        const job = await client(server).submit("a boat");
        const whole = await job.image();
        await server.on(IMAGES, [fault]);
        // Two windows of 0.1 s in which a drip brings some 40,000 bytes, and its silence of 10 ms is none.
        const saved = await saveImage(job, join(place, "boat.png"), { dripWindow: 0.1, dripRate: 1e6 });
        assert.equal(saved.sha256, whole.sha256);
        assert.deepEqual(readdirSync(place), ["boat.png"]);
        const ranges = to((await server.seen()).requests, "GET", "/outputs/").map(({ headers }) => !!headers.range);
        assert.deepEqual(ranges, [false, false, true]);
      });
    }

    it("is asked for the rest, under the version it has", async () => {
      const server = await start(mode, { image: LARGE });
      const job = await client(server).submit("a boat");
      await server.on(IMAGES, [["Cut", { share: 0.5 }]]);
      await saveImage(job, join(place, "boat.png"));
      const [first, second] = to((await server.seen()).requests, "GET", "/outputs/");
      assert.equal(first.headers.range, undefined);
      assert.match(second.headers.range, /^bytes=[1-9]\d*-$/);
      assert.match(second.headers["accept-encoding"], /^identity(, identity)?$/); // fetch adds its own with a range
      assert.equal(/^"/.test(second.headers["if-range"]), modern, "weak versions may not stand in If-Range");
    });

    it("of an image that changes meanwhile starts anew", async () => {
      const server = await start(mode, { image: LARGE });
      const job = await client(server).submit("a boat");
      const other = { "Content-Range": "bytes 0-9/10", ETag: '"other"' };
      await server.on(IMAGES, [
        ["Cut", {}],
        ["Answer", { status: 206, body: "0123456789", headers: other }],
      ]);
      const image = await job.image();
      assert.equal((await errors.verify(image.bytes)).sha256, image.sha256);
      const ranges = to((await server.seen()).requests, "GET", "/outputs/").map(({ headers }) => !!headers.range);
      assert.deepEqual(ranges, [false, true, false]);
    });

    it("a damaged one is fetched once more, and never saved", async () => {
      const server = await start(mode);
      const umrgen = client(server);
      const target = join(place, "boat.png");
      await server.on(IMAGES, [["Tamper", { change: "flip" }]]);
      const saved = await saveImage(await umrgen.submit("a boat"), target);
      assert.ok(saved.size > 100);
      await server.on(IMAGES, [["Tamper", { change: "flip" }]], null);
      const job = await umrgen.submit("a boat");
      await assert.rejects(saveImage(job, join(place, "other.png")), like(errors.OutputCorrupt, "output_corrupt"));
      assert.deepEqual(readdirSync(place), ["boat.png"]);
    });

    for (const [name, fault] of [
      ["an HTML page", ["Page", {}]],
      ["JSON", ["Answer", { body: { error: "gone" } }]],
      ["nothing but a promise", ["Tamper", { headers: { "Repr-Digest": `sha-256=:${"A".repeat(43)}=:` } }]],
    ]) {
      it(`${name} in its place is no image`, async () => {
        const server = await start(mode);
        await server.on(IMAGES, [fault], null);
        const job = await client(server).submit("a boat");
        const corrupt = like(errors.OutputCorrupt, "output_corrupt", { jobId: job.id, retryable: true });
        await assert.rejects(saveImage(job, join(place, "boat.png")), corrupt);
        assert.deepEqual(readdirSync(place), []);
      });
    }

    for (const [status, Kind, code] of [
      [403, errors.OutputForbidden, "output_forbidden"],
      [404, errors.OutputMissing, "output_not_found"],
      [410, errors.OutputMissing, "output_expired"],
    ]) {
      it(`${status} asks for a fresh address, once`, async () => {
        const server = await start(mode);
        await server.on(IMAGES, [["Answer", { status }]]);
        const image = await client(server).generate("a boat");
        assert.ok(image.bytes.length > 100);
        await server.on(IMAGES, [["Answer", { status }]], null);
        const before = (await server.seen()).requests.length;
        const umrgen = client(server);
        await assert.rejects(umrgen.job(image.jobId).image(), like(Kind, code, { jobId: image.jobId }));
        const { requests } = await server.seen();
        assert.deepEqual(
          requests.slice(before).map(({ path }) => path.split("/")[1]),
          ["api", "outputs", "api", "outputs"],
        );
      });
    }

    it("outlasts 503 and 429", async () => {
      const server = await start(mode);
      await server.on(IMAGES, [
        ["Answer", { status: 503 }],
        ["Answer", { status: 429, headers: { "Retry-After": "0" } }],
      ]);
      assert.ok((await client(server).generate("a boat")).bytes.length > 100);
    });

    it("has a largest size", async () => {
      const server = await start(mode);
      await assert.rejects(
        client(server).generate("a boat", { maxBytes: 100 }),
        like(errors.OutputCorrupt, "too_large"),
      );
    });
  });

  describe(`${mode}: the key stays home`, () => {
    it("across no redirect", async () => {
      const [server, evil] = await Promise.all([start(mode), start("modern")]);
      const umrgen = client(server, PATIENT); // each fault is there once, and must be met
      const job = await umrgen.submit("a boat");
      for (const [pattern, path, call] of [
        [STATUS, `/api/v1/status/${job.id}`, () => job.status()],
        [SUBMIT, "/api/v1/generate", () => umrgen.submit("a boat")],
      ]) {
        await server.on(pattern, [["Redirect", { location: evil.url + path }]]);
        await assert.rejects(call(), like(errors.NotUmrgen, "not_umrgen"));
      }
      await server.on(IMAGES, [["Redirect", { location: `${evil.url}/outputs/x.png` }]]);
      await assert.rejects(job.image(), like(errors.OutputForbidden, "foreign_output"));
      assert.deepEqual((await evil.seen()).requests, []);
    });

    it("but an image may move within the origin", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      const { imageUrl } = await job.wait();
      await server.on(IMAGES, [["Redirect", { location: imageUrl }]]);
      assert.ok((await job.image()).bytes.length > 100);
      await server.on(IMAGES, [["Redirect", { location: imageUrl }]], null);
      await assert.rejects(job.image(), like(errors.OutputCorrupt, "redirect_loop"));
    });

    it("an image elsewhere is fetched only when allowed, and without it", async () => {
      const evil = await start("modern");
      const there = await client(evil).generate("a boat");
      const { path } = to((await evil.seen()).requests, "GET", "/outputs/")[0];
      const server = await start(mode, { image_url: evil.url + path });
      const job = await client(server).submit("a boat");
      await assert.rejects(job.image(), like(errors.OutputForbidden, "foreign_output", { jobId: job.id }));
      const image = await job.image({ followForeign: true });
      assert.equal(image.sha256, there.sha256);
      const seen = to((await evil.seen()).requests, "GET", "/outputs/");
      assert.equal(seen.length, 2);
      assert.equal(seen[1].headers.authorization, undefined);
    });

    it("and out of what is thrown or shown", async () => {
      const server = await start(mode, { key: "another-key" });
      const umrgen = client({ url: server.url, key: "the-key-that-stays-home" });
      const error = await umrgen.generate("a boat").catch((thrown) => thrown);
      like(errors.Unauthorized, "unauthorized")(error);
      const shown = [
        inspect(error, { depth: 9 }),
        inspect(umrgen, { depth: 9, showHidden: true }),
        JSON.stringify(umrgen),
      ];
      for (const text of shown) assert.doesNotMatch(text, /stays-home/);
    });
  });

  describe(`${mode}: a submit`, () => {
    it("that may have arrived makes one job, or says that it may have", async () => {
      const server = await start(mode);
      await server.on(SUBMIT, [["Reset", { share: 0 }]]);
      const made = await client(server)
        .submit("a boat")
        .catch((error) => error);
      const { jobs, requests } = await server.seen();
      assert.equal(jobs.length, 1);
      const submits = to(requests, "POST", "/api/v1/generate");
      if (modern) {
        assert.equal(made.id, jobs[0].id);
        assert.equal(new Set(submits.map(({ headers }) => headers["idempotency-key"])).size, 1);
      } else {
        like(errors.ConnectionFailed, "connection_failed", { sent: true, retryable: false })(made);
        assert.equal(submits.length, 1);
      }
    });

    it("that never arrived is sent again", async () => {
      const server = await start(mode);
      await server.refuse(0.3);
      assert.match((await client(server).submit("a boat")).id, /^ext_/);
      assert.equal((await server.seen()).jobs.length, 1);
    });

    it("nobody answers ends soon, and says that nothing was made", async () => {
      const server = await start(mode);
      await server.refuse(null);
      const failed = like(errors.ConnectionFailed, "connection_failed", { sent: false, retryable: true });
      await assert.rejects(client(server, { submitPatience: 0.1 }).submit("a boat"), failed);
    });

    it("waits for a slot when told to", async () => {
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
    it("outlasts resets, pages, cut answers and a restart of the network", async () => {
      const server = await start(mode, { job_seconds: 0.2 });
      const job = await client(server).submit("a boat");
      await server.on(STATUS, [
        ["Reset", {}],
        ["Page", {}],
        ["Cut", {}],
        ["Answer", { status: 502 }],
        ["Silence", {}],
      ]);
      await server.refuse(0.2);
      assert.equal((await job.wait()).state, "completed");
    });

    it("ends with its deadline, and the job lives", async () => {
      const server = await start(mode, { job_seconds: 3600 });
      const umrgen = client(server, { timeout: 0.5 });
      const job = await umrgen.submit("a boat");
      const late = like(errors.WaitTimeout, "wait_timeout", { jobId: job.id, retryable: true });
      await assert.rejects(job.wait(), late);
      assert.equal((await job.status()).state, "running", "a deadline that has passed is not the next call's");
      await server.on(STATUS, [["Silence", {}]], null);
      await assert.rejects(job.wait(), late);
    });

    it("one deadline spans submit, wait and download", async () => {
      const server = await start(mode);
      await server.on(IMAGES, [["Silence", {}]], null);
      const begun = performance.now();
      const options = { timeout: 0.6, requestTimeout: 30, dripWindow: 30 };
      await assert.rejects(client(server, options).generate("a boat"), like(errors.WaitTimeout, "wait_timeout"));
      assert.ok(performance.now() - begun < 3000);
    });

    it("an abort ends a backoff at once, with its own reason", async () => {
      const server = await start(mode);
      const controller = new AbortController();
      const job = await client(server).submit("a boat", { signal: controller.signal });
      await server.on(STATUS, [["Answer", { status: 503, headers: { "Retry-After": "5" } }]], null);
      const reason = new Error("enough");
      const onEvent = ({ kind }) => kind === "retrying" && controller.abort(reason);
      const begun = performance.now();
      await assert.rejects(job.wait({ onEvent, timeout: 60, patience: 60 }), (error) => error === reason);
      assert.ok(performance.now() - begun < 2000);
      await assert.rejects(job.status(), (error) => error === reason, "the submit's signal is its job's");
    });

    it("an abort ends a held call and a download, too", async () => {
      const server = await start(mode, { job_seconds: 3600 });
      const job = await client(server, { requestTimeout: 60, timeout: 60 }).submit("a boat");
      await server.on(STATUS, [["Silence", {}]]);
      const told = [];
      const call = { signal: AbortSignal.timeout(50), onEvent: ({ kind }) => told.push(kind) };
      await assert.rejects(job.wait(call), { name: "TimeoutError" });
      assert.ok(!told.includes("retrying"), "an abort is no trouble of the server's");
      const quick = await start(mode);
      const controller = new AbortController();
      const onEvent = ({ kind }) => kind === "download" && controller.abort();
      const made = await client(quick).submit("a boat");
      const target = join(place, "boat.png");
      await assert.rejects(saveImage(made, target, { signal: controller.signal, onEvent }), { name: "AbortError" });
      assert.deepEqual(readdirSync(place), []);
    });

    it("a job that was there and is gone is told from one never known", async () => {
      const server = await start(mode, { job_seconds: 3600 });
      const umrgen = client(server);
      const job = await umrgen.submit("a boat");
      const [looked, watched] = [umrgen.job(job.id), umrgen.job(job.id)];
      await looked.status();
      for await (const status of watched) if (status) break;
      await server.on(STATUS, [["Answer", { status: 404, body: { error: "Job not found" } }]], null);
      for (const seen of [job, looked, watched]) {
        await assert.rejects(seen.wait(), like(errors.JobNotFound, "job_gone", { jobId: job.id }));
      }
      await assert.rejects(umrgen.job("ext_never").wait(), like(errors.JobNotFound, "job_not_found"));
      const picked = umrgen.job(job.id);
      await assert.rejects(picked.status(), like(errors.JobNotFound, "job_not_found"));
    });

    it("for many", async () => {
      const server = await start(mode, { workers: 2, concurrency: null, fail: { 1: "engine_failed" } });
      const umrgen = client(server);
      const jobs = [];
      for (const prompt of ["one", "two", "three"]) jobs.push(await umrgen.submit(prompt));
      const over = [];
      for await (const job of umrgen.asCompleted(jobs)) over.push(job);
      assert.deepEqual(new Set(over), new Set(jobs));
      assert.deepEqual(
        jobs.map((job) => job.outcome.state),
        ["completed", "failed", "completed"],
      );
      assert.ok((await jobs[2].image()).bytes.length > 100);
      await assert.rejects(jobs[1].image(), like(errors.JobFailed, modern ? "engine_failed" : "job_failed"));
      const waits = to((await server.seen()).requests, "GET", "/api/v1/status/");
      assert.equal(waits.length > 0, !modern, "one call for all where the server has it");
    });
  });

  describe(`${mode}: the file`, () => {
    it("is never replaced unless told", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      const target = join(place, "boat.png");
      writeFileSync(target, "mine");
      const before = (await server.seen()).requests.length;
      const exists = like(errors.TargetUnusable, "target_exists");
      await assert.rejects(saveImage(job, target), exists);
      assert.equal((await server.seen()).requests.length, before, "said before anything is asked");
      assert.equal(readFileSync(target, "utf8"), "mine");
      await saveImage(job, target, { overwrite: true });
      assert.notEqual(readFileSync(target, "utf8"), "mine");
      assert.deepEqual(readdirSync(place), ["boat.png"]);
    });

    it("nor when it appears meanwhile", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      const target = join(place, "boat.png");
      const onEvent = ({ kind }) => kind === "download" && writeFileSync(target, "mine");
      await assert.rejects(saveImage(job, target, { onEvent }), like(errors.TargetUnusable, "target_exists"));
      assert.equal(readFileSync(target, "utf8"), "mine");
      assert.deepEqual(readdirSync(place), ["boat.png"]);
    });

    it("by several at once is one file, and whole", async () => {
      const server = await start(mode);
      const job = await client(server).submit("a boat");
      await job.wait();
      const target = join(place, "boat.png");
      const results = await Promise.allSettled(Array.from({ length: 6 }, () => saveImage(job, target)));
      const saved = results.filter(({ status }) => status === "fulfilled");
      assert.equal(saved.length, 1);
      for (const { reason } of results) if (reason) like(errors.TargetUnusable, "target_exists")(reason);
      assert.deepEqual(readdirSync(place), ["boat.png"]);
      const bytes = new Uint8Array(readFileSync(target));
      assert.equal((await errors.verify(bytes)).sha256, saved[0].value.sha256);
    });

    it("needs a folder", async () => {
      const server = await start(mode);
      const job = client(server).job("ext_1");
      for (const target of [join(place, "no", "boat.png"), join(place, "no/")]) {
        await assert.rejects(
          saveImage(job, target),
          like(errors.TargetUnusable, "target_unusable", { jobId: "ext_1" }),
        );
      }
      assert.equal(existsSync(join(place, "no")), false);
      assert.deepEqual((await server.seen()).requests, []);
    });

    it("is called after its true type when its name is ours", async () => {
      const jpeg = "/9j/4AAGSkZJRv/AAAsIABgAKAEBEQD/2gACEjT/2Q==";
      const server = await start(mode, { image: jpeg });
      const job = await client(server).submit("a boat");
      assert.equal((await saveImage(job, place)).path, join(place, `${job.id}.jpg`));
      assert.equal((await saveImage(job, join(place, "as-told.png"))).mediaType, "image/jpeg");
      assert.deepEqual(readdirSync(place).sort(), ["as-told.png", `${job.id}.jpg`]);
    });
  });
}

describe("what older servers lack", () => {
  it("is said", async () => {
    const server = await start("legacy");
    const umrgen = client(server);
    const job = await umrgen.submit("a boat");
    const unsupported = like(errors.Unsupported, "unsupported", { status: 404 });
    await assert.rejects(job.cancel(), unsupported);
    await assert.rejects(umrgen.jobs(), unsupported);
    await assert.rejects(umrgen.capabilities(), unsupported);
    await assert.rejects(job.events().next(), unsupported);
  });

  it("a restart loses their jobs", async () => {
    const server = await start("legacy", { job_seconds: 3600 });
    const job = await client(server).submit("a boat");
    await server.restart();
    await assert.rejects(job.wait(), like(errors.JobNotFound, "job_gone"));
  });

  it("a tunnel's page is not the server's", async () => {
    const server = await start("legacy", { interstitial: true });
    const options = { garbageTries: 1 };
    await assert.rejects(client(server, options).job("ext_1").wait(), like(errors.NotUmrgen, "not_umrgen"));
  });
});

describe("a reference image", () => {
  it("is uploaded as a file, once", async () => {
    const server = await start("modern");
    const told = { success: true, filename: "ref_1.png", url: "/references/ref_1.png" };
    await server.on("POST /api/v1/upload-reference", [
      ["Answer", { body: told }],
      ["Silence", { handled: false }],
    ]);
    const umrgen = client(server);
    const file = new File(["picture"], "mine.png", { type: "image/png" });
    assert.deepEqual(await umrgen.uploadReference(file), told);
    await assert.rejects(umrgen.uploadReference(file), like(errors.ConnectionFailed, "connection_failed"));
    const uploads = to((await server.seen()).requests, "POST", "/api/v1/upload-reference");
    assert.equal(uploads.length, 2, "what may have arrived is not sent again");
    const [{ headers, body }] = uploads;
    assert.match(headers["content-type"], /^multipart\/form-data; boundary=/);
    const text = Buffer.from(body, "base64").toString();
    assert.match(text, /name="file"; filename="mine.png"\r\nContent-Type: image\/png\r\n\r\npicture\r\n/);
  });
});
