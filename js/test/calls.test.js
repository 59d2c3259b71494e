// What callers write: keys, addresses, options, references and callbacks, against a fake network.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { inspect } from "node:util";
import { InvalidRequest, JobFailed, Umrgen } from "../src/index.js";
import { crossOriginAdvice, failureReason } from "../src/failures.js";
import { folder } from "./support/servers.js";
import { VirtualClock } from "./support/virtual.js";

const BASE = "http://umrgen.example";
const RECEIPT = { job_id: "ext_1", status_url: "/api/v1/status/ext_1" };

/** Return a client whose server responds by `respond(path, body)` with the data of a JSON response. */
function client(respond = () => RECEIPT, options = {}) {
  const requests = [];
  const fetch = async (url, { body, headers }) => {
    const path = url.slice(BASE.length);
    requests.push({ path, headers: new Headers(headers), body: typeof body === "string" ? JSON.parse(body) : body });
    return Response.json(respond(path));
  };
  return { umrgen: new Umrgen({ baseUrl: BASE, apiKey: "k", fetch, clock: new VirtualClock(), ...options }), requests };
}

describe("a key", () => {
  it("is sent without white space around it", async () => {
    const { umrgen, requests } = client(undefined, { apiKey: " \numr_key\r\n" });
    await umrgen.submit("x");
    assert.equal(requests[0].headers.get("authorization"), "Bearer umr_key");
  });

  it("that no header can carry is refused at construction, without being shown", () => {
    for (const apiKey of ["umr_secret\rx", "umr_secret\nX: y", "umr_secret\0", "umr_sécret", "umr_ secret", "umr_secret\u200b", 7]) {
      assert.throws(
        () => new Umrgen({ baseUrl: BASE, apiKey }),
        (error) => error.code === "bad_api_key" && !/s.?cret|\b7\b/.test(inspect(error, { depth: 9 }).replace(/character \d+ of \d+/, "").split("\n")[0]),
      );
    }
  });
});

describe("the environment", () => {
  afterEach(() => {
    delete process.env.UMRGEN_BASE_URL;
    delete process.env.UMRGEN_API_KEY;
  });

  it("has the address and the key in Node", async () => {
    assert.throws(() => new Umrgen(), { code: "no_server" });
    Object.assign(process.env, { UMRGEN_BASE_URL: `${BASE}/`, UMRGEN_API_KEY: "of-the-environment" });
    const { umrgen, requests } = client(undefined, { baseUrl: undefined, apiKey: undefined });
    assert.equal(umrgen.baseUrl, BASE);
    await umrgen.submit("x");
    assert.equal(requests[0].headers.get("authorization"), "Bearer of-the-environment");
  });
});

describe("an address", () => {
  it("that ends with the path of the API, or has a password, is refused without the password", () => {
    assert.throws(() => new Umrgen({ baseUrl: `${BASE}/api/v1/` }), { code: "bad_base_url", next: `Use ${BASE}.` });
    const next = "Write the scheme: http://localhost:3088, or with https:// for a server with TLS.";
    assert.throws(() => new Umrgen({ baseUrl: "localhost:3088" }), { code: "bad_base_url", next });
    assert.throws(
      () => new Umrgen({ baseUrl: "http://user:secret@host" }),
      (error) => error.code === "bad_base_url" && !/secret/.test(error.message),
    );
  });
});

describe("a misspelt option", () => {
  for (const [name, nearest] of [
    ["widht", "width"],
    ["reference", "references"],
    ["reference_images", "referenceImages"],
    ["timeOut", "timeout"],
    ["onevent", "onEvent"],
    ["negative_prompt", null],
    ["zzz", null],
  ]) {
    it(`${name} of a submit is a TypeError`, async () => {
      const { umrgen, requests } = client();
      await assert.rejects(umrgen.submit("x", { [name]: 1 }), (error) => {
        assert.ok(error instanceof TypeError);
        if (nearest) assert.equal(error.message, `unknown option: ${name}; did you mean ${nearest}?`);
        return true;
      });
      assert.deepEqual(requests, []);
    });
  }

  it("is a TypeError in every other call", async () => {
    const { umrgen } = client();
    assert.throws(() => new Umrgen({ baseURL: BASE }), { message: "unknown option: baseURL; did you mean baseUrl?" });
    await assert.rejects(umrgen.jobs({ staet: "failed" }), { message: "unknown option: staet; did you mean state?" });
    for (const call of ["status", "wait", "image", "cancel", "delete"]) {
      await assert.rejects(umrgen.job("ext_1")[call]({ timout: 1 }), TypeError, call);
    }
    await assert.rejects(umrgen.job("ext_1").favorite(true, { timout: 1 }), TypeError);
    await assert.rejects(umrgen.deleteJobs(["ext_1"], { timout: 1 }), TypeError);
  });
});

describe("a server of an earlier version", () => {
  const page = { jobs: [{ job_id: "ext_1", state: "completed" }], next_cursor: null };

  it("is not asked for jobs that it would not filter", async () => {
    const { umrgen } = client(() => page);
    assert.equal((await umrgen.jobs()).jobs.length, 1);
    for (const filter of [{ search: "boat" }, { favorite: true }, { engine: "x" }, { before: 1 }, { after: new Date() }]) {
      await assert.rejects(umrgen.jobs(filter), { code: "unsupported", next: "List all jobs, and choose among them." });
    }
  });
});

describe("warnings and events", () => {
  const warned = { ...RECEIPT, warnings: ["unknown field: x\x1b[2J", 7] };

  it("of a submit are events, and a property of the job", async () => {
    const events = [];
    const { umrgen } = client(() => warned, { onEvent: (event) => events.push(event) });
    const job = await umrgen.submit("x");
    assert.deepEqual(job.warnings, ["unknown field: x\ufffd[2J"]);
    assert.deepEqual(
      events.filter(({ kind }) => kind === "warning").map(({ jobId, message }) => [jobId, message]),
      [["ext_1", "unknown field: x\ufffd[2J"]],
    );
  });

  it("are shown on the console without onEvent", async (test) => {
    const warn = test.mock.method(console, "warn", () => {});
    await client(() => warned).umrgen.submit("x");
    assert.deepEqual(warn.mock.calls.map(({ arguments: [text] }) => text), ["umrgen: unknown field: x\ufffd[2J"]);
  });

  it("with an exception in onEvent do not lose the job", async (test) => {
    const report = test.mock.method(console, "error", () => {});
    const onEvent = () => {
      throw new Error("of the callback");
    };
    assert.equal((await client(() => warned, { onEvent }).umrgen.submit("x")).id, "ext_1");
    assert.equal(report.mock.callCount(), 2);
  });

  it("say what a first server ignores", async () => {
    const { umrgen } = client(() => ({ job_id: "ext_1" }), { onEvent: () => {} });
    const job = await umrgen.submit("x", { webhookUrl: "https://me.example/hook", priority: 1 });
    assert.deepEqual(job.warnings.map((text) => /ignores (\w+)/.exec(text)[1]), ["webhook_url", "priority"]);
  });
});

describe("references", () => {
  const png = Buffer.from("\x89PNG\r\n\x1a\n....", "latin1");
  const respond = (path) => (path.endsWith("/upload-reference") ? { filename: "ref_2.png", url: "/r" } : RECEIPT);

  it("are uploaded from a path, a Blob or bytes, under a unique name", async () => {
    const path = join(folder(), "boat");
    writeFileSync(path, png);
    const { umrgen, requests } = client(respond);
    const names = [];
    await umrgen.submit("x", { referenceImages: ["ref_1.png"], references: [path, new Blob([png]), new Uint8Array(png)] });
    for (const { body } of requests.slice(0, 3)) {
      const file = body.get("file");
      assert.deepEqual(Buffer.from(await file.arrayBuffer()), png);
      names.push(file.name);
    }
    assert.equal(new Set(names).size, 3);
    for (const name of names) assert.match(name, /^reference-[0-9a-f]{32}\.png$/);
    assert.deepEqual(requests[3].body.reference_images, ["ref_1.png", "ref_2.png", "ref_2.png", "ref_2.png"]);
  });

  it("that cannot be read or are too large are refused before a request", async () => {
    const { umrgen, requests } = client(respond);
    for (const image of ["/nowhere/\x1b[2J", new Blob([]), new Uint8Array(10 * 2 ** 20 + 1)]) {
      await assert.rejects(umrgen.submit("x", { references: [image] }), InvalidRequest);
    }
    await assert.rejects(umrgen.submit("x", { references: [7] }), TypeError);
    assert.deepEqual(requests, []);
  });
});

describe("texts from elsewhere", () => {
  it("of the platform's exceptions are not shown", async () => {
    const secret = "Headers.append: umr_secret is an invalid header value";
    const failing = () => {
      throw Object.assign(new TypeError(secret), { cause: Object.assign(new Error(secret), { code: "E\x1b[2J" }) });
    };
    const { umrgen } = client(failing);
    await assert.rejects(umrgen.submit("x"), (error) => !/secret|\x1b/.test(inspect(error, { depth: 9 })));
    assert.equal(failureReason(undefined), "the connection failed");
  });

  it("have a hint for a page of another origin", () => {
    assert.equal(crossOriginAdvice(BASE), "");
    globalThis.location = { origin: "http://page.example" };
    try {
      assert.match(crossOriginAdvice(BASE), /http:\/\/page\.example.* allowed_origins \(CORS\)/);
      globalThis.location = { origin: BASE };
      assert.equal(crossOriginAdvice(BASE), "");
    } finally {
      delete globalThis.location;
    }
  });

  it("of ComfyUI are shown in short", async () => {
    const error = '{"error": {"message": "Prompt outputs failed", "details": ""}, "node_errors": {"4": {"errors": [{"details": "no ckpt"}]}}}';
    const { umrgen } = client(() => ({ state: "failed", error }));
    await assert.rejects(umrgen.job("ext_1").wait(), (thrown) => thrown instanceof JobFailed && thrown.message === "Prompt outputs failed: no ckpt");
  });
});
