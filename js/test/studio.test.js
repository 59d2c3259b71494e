// Modules of the studio that need no document: submissions, the jobs of the page, ZIP files, images and their links.
import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { ConnectionFailed, OutputMissing, parseStatus, TargetUnusable, Unauthorized } from "../src/index.js";
import { settingsOf } from "../studio/image_settings.js";
import { copyImage, copyLink } from "../studio/image_sharing.js";
import { findEntry } from "../studio/job_search.js";
import { Jobs } from "../studio/jobs.js";
import { pageCall } from "../studio/page_calls.js";
import { submitAll } from "../studio/submissions.js";
import { downloadZip } from "../studio/zip_download.js";

const REQUEST = { prompt: "a boat", negative: "", width: 512, height: 512, steps: 1, loras: [], reference_images: [] };
const NEW = [undefined, undefined];

const statusOf = (id, state, more = {}) => parseStatus({ job_id: id, state, prompt: "a boat", request: REQUEST, ...more }, id);

/** A client that keeps the idempotency keys of its submits; `reply` may delay or refuse one. */
function submitter(reply = async () => {}) {
  const keys = [];
  const submit = async (_prompt, { idempotencyKey }) => {
    const number = keys.push(idempotencyKey);
    await reply(number);
    return { id: `ext_${number}` };
  };
  return { keys, submit };
}

describe("submissions", () => {
  it("repeat a failed request with the same keys, and go on where it failed", async () => {
    const refused = [2];
    const client = submitter(async (number) => {
      if (refused.includes(number)) throw new ConnectionFailed();
    });
    const jobs = new Jobs();
    await assert.rejects(submitAll(client, jobs, { request: REQUEST, seeds: NEW }), ConnectionFailed);
    assert.equal(await submitAll(client, jobs, { request: REQUEST, seeds: NEW }), 2);
    const [first, second, again] = client.keys;
    assert.equal(client.keys.length, 3);
    assert.equal(again, second);
    assert.notEqual(first, second);
  });

  it("that overlap have keys of their own, each with all of its images", async () => {
    const waiting = [];
    const client = submitter(() => new Promise((resolve) => waiting.push(resolve)));
    const other = { ...REQUEST, prompt: "a castle" };
    const all = [REQUEST, other, REQUEST].map((request) => submitAll(client, new Jobs(), { request, seeds: NEW }));
    const ended = Promise.all(all);
    let over = false;
    ended.then(() => (over = true));
    while (!over) {
      waiting.shift()?.();
      await new Promise(setImmediate);
    }
    assert.deepEqual(await ended, [2, 2, 2]);
    assert.equal(new Set(client.keys).size, 6);
  });
});

describe("the jobs of the page", () => {
  it("do not come back with a list that is older than their removal", () => {
    const jobs = new Jobs();
    jobs.update(statusOf("ext_1", "completed"));
    jobs.remove("ext_1");
    jobs.update(statusOf("ext_1", "completed"));
    assert.equal(jobs.get("ext_1"), undefined);
  });

  it("keep no preview after their end", () => {
    const jobs = new Jobs();
    jobs.update(statusOf("ext_1", "running"));
    jobs.patch("ext_1", { preview: "data:image/jpeg;base64,AAAA" });
    jobs.update(statusOf("ext_1", "completed"));
    assert.equal(jobs.get("ext_1").preview, null);
  });

  it("are found by any id that the client accepts", async () => {
    const id = "A.b:c-1";
    const status = statusOf(id, "completed");
    const umrgen = { job: () => ({ status: async () => status }), jobs: async () => ({ jobs: [status], nextCursor: null }) };
    assert.equal((await findEntry(umrgen, new Jobs(), id)).id, id);
    assert.equal(await findEntry(umrgen, new Jobs(), "../x"), undefined);
  });
});

describe("a ZIP file of images", () => {
  const entries = ["ext_1", "ext_2", "ext_3"].map((id) => ({ id, request: REQUEST, status: statusOf(id, "completed"), createdAt: 0 }));
  const client = (image = async () => ({ bytes: new Uint8Array([1, 2, 3]), mediaType: "image/png" })) => ({ job: (id) => ({ image: () => image(id) }) });

  /** Stand for the browser's dialog; return what becomes of the file. */
  function file(write = () => {}) {
    const ends = [];
    const stream = { write: async (part) => write(part), close: async () => ends.push("closed"), abort: async () => ends.push("aborted") };
    globalThis.showSaveFilePicker = async () => ({ createWritable: async () => stream });
    return ends;
  }

  afterEach(() => delete globalThis.showSaveFilePicker);

  it("leaves out an image that cannot be downloaded", async () => {
    const ends = file();
    const image = async (id) => {
      if (id === "ext_2") throw new OutputMissing();
      return { bytes: new Uint8Array([1]), mediaType: "image/png" };
    };
    assert.equal(await downloadZip(client(image), entries, () => {}), 1);
    assert.deepEqual(ends, ["closed"]);
  });

  it("that cannot be written is removed, with an error for the user", async () => {
    const ends = file(() => {
      throw new DOMException("disk /home/x is full", "QuotaExceededError");
    });
    const failed = (error) => error instanceof TargetUnusable && !error.message.includes("/home");
    await assert.rejects(downloadZip(client(), entries, () => {}), failed);
    assert.deepEqual(ends, ["aborted"]);
  });

  it("ends when the key is refused", async () => {
    const ends = file();
    const reports = [];
    const refused = client(async () => {
      throw new Unauthorized();
    });
    await assert.rejects(downloadZip(refused, entries, (text) => reports.push(text)), Unauthorized);
    assert.equal(reports.length, 1);
    assert.deepEqual(ends, ["aborted"]);
  });
});

describe("an image", () => {
  const entry = { id: "ext_1", request: REQUEST, status: statusOf("ext_1", "completed"), createdAt: 0 };

  it("that the server has deleted has no link", async () => {
    const umrgen = { baseUrl: "http://server", job: () => ({ status: async () => statusOf("ext_1", "completed") }) };
    await assert.rejects(copyLink(umrgen, entry), OutputMissing);
  });

  it("that cannot be downloaded is not copied, for this reason", async (test) => {
    const image = async () => {
      throw new ConnectionFailed();
    };
    const clipboard = { write: async () => { throw new DOMException("NotAllowedError"); } };
    for (const [name, value] of Object.entries({ ClipboardItem: class {}, navigator: { clipboard } })) {
      const before = Object.getOwnPropertyDescriptor(globalThis, name);
      Object.defineProperty(globalThis, name, { value, configurable: true });
      test.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
    }
    await assert.rejects(copyImage({ job: () => ({ image }) }, entry), ConnectionFailed);
  });

  it("that cannot be read has no settings", async () => {
    const folder = { size: 0, arrayBuffer: async () => { throw new DOMException("NotReadableError"); } };
    assert.equal(await settingsOf(folder), null);
  });
});

describe("a call of the page", () => {
  /** @param {() => unknown} respond */
  function responding(test, respond) {
    test.mock.method(globalThis, "fetch", async () => respond());
  }
  const json = (status, data) => Response.json(data, { status });

  it("returns the object of the response", async (test) => {
    responding(test, () => json(200, { key: "umr_1" }));
    assert.deepEqual(await pageCall("http://server/studio/session", {}), { key: "umr_1" });
  });

  for (const [name, respond, message] of [
    ["of the server", () => json(403, { error: "the link was used", next: "Make another one." }), "the link was used. Make another one."],
    ["of the server without advice", () => json(403, { error: "the link was used" }), "the link was used"],
    ["of a gateway", () => new Response("<html>", { status: 502 }), "The response is not from an UMRGEN server (HTTP 502)"],
    ["of a gateway in JSON", () => json(502, { message: "x" }), "The response is not from an UMRGEN server (HTTP 502)"],
    ["of no response", () => Promise.reject(new TypeError("fetch failed: secret")), "The server cannot be reached. Check that it is running, then try again"],
  ]) {
    it(`shows the error ${name}`, async (test) => {
      responding(test, respond);
      await assert.rejects(pageCall("http://server/studio/session", {}), { message });
    });
  }

  it("has a time limit", async (test) => {
    let signal;
    test.mock.method(globalThis, "fetch", async (_url, init) => {
      signal = init.signal;
      return json(200, {});
    });
    await pageCall("http://server/studio/session", {});
    assert.ok(signal instanceof AbortSignal);
  });
});
