// Server-Sent Events: as the real server sends them, and as a network may chop them up.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ConnectionFailed, JobNotFound, Umrgen, verify } from "../src/index.js";
import { realServer } from "./support/servers.js";
import { VirtualClock } from "./support/virtual.js";

const server = await realServer("--step-delay", "0.2");
const umrgen = new Umrgen({ baseUrl: server.url, apiKey: server.key });
const SMALL = { width: 512, height: 512, steps: 3 };

async function all(events) {
  const told = [];
  for await (const event of events) told.push(event);
  return told;
}

describe("the real server's events", () => {
  it("tell a job's way to its end, with pictures for those who ask", async () => {
    const job = await umrgen.submit("a boat", SMALL);
    const told = await all(job.events({ preview: true }));
    const states = told.filter(({ type }) => type === "status").map(({ status }) => status.state);
    assert.equal(states.at(-1), "completed");
    assert.ok(told.some(({ type, data }) => type === "progress" && data.total === 3));
    const preview = told.find(({ type }) => type === "preview");
    const facts = await verify(new Uint8Array(Buffer.from(preview.data.data, "base64")));
    assert.equal(facts.mediaType, "image/jpeg");
  });

  it("have no pictures for those who do not", async () => {
    const told = await all((await umrgen.submit("a boat", SMALL)).events());
    assert.ok(told.length >= 2);
    assert.deepEqual(
      told.filter(({ type }) => type === "preview"),
      [],
    );
  });

  it("of a job that nobody knows are an error", async () => {
    await assert.rejects(
      umrgen.job("ext_nobody").events().next(),
      (error) => error instanceof JobNotFound && error.coded,
    );
  });

  it("may be left in the middle, and a signal ends them", async () => {
    const job = await umrgen.submit("a boat", SMALL);
    for await (const { type } of job.events()) {
      assert.equal(type, "status");
      break;
    }
    const controller = new AbortController();
    const events = job.events({ signal: controller.signal });
    await events.next();
    controller.abort();
    await assert.rejects(async () => all(events), { name: "AbortError" });
  });
});

/** A client whose event streams are these pieces of text; `null` breaks the line. */
function chopped(...streams) {
  const asked = [];
  const clock = new VirtualClock();
  const fetch = async (url, { headers, signal }) => {
    asked.push({ at: Math.round(clock.now() * 1000) / 1000, last: new Headers(headers).get("last-event-id"), url });
    const pieces = streams[asked.length - 1];
    assert.ok(pieces, "one request too many");
    if (typeof pieces === "number") return new Response(null, { status: pieces });
    const encoder = new TextEncoder();
    const body = new ReadableStream({
      async pull(controller) {
        const piece = pieces.shift();
        if (piece === undefined) controller.close();
        else if (piece === null) controller.error(new TypeError("terminated"));
        else if (typeof piece === "number") await clock.sleep(piece, signal).catch((error) => controller.error(error));
        else controller.enqueue(typeof piece === "string" ? encoder.encode(piece) : piece);
      },
    });
    return new Response(body, { status: 200 });
  };
  const client = new Umrgen({ baseUrl: "http://umrgen.example", fetch, clock, random: () => 0.5 });
  return { job: client.job("ext_1"), asked };
}

const status = (state, id) => `event: status\nid: ${id}\ndata: {"state": "${state}"}\n\n`;

describe("an event stream", () => {
  it("is understood however it is cut, with either line end", async () => {
    for (const end of ["\n", "\r\n"]) {
      const progress = `event: progress\ndata: {"step": 1,\ndata:  "total": 4, "words": "d\u00e9j\u00e0 \u{1f5fc}"}\n\n`;
      const text = `: hello\n\n${progress}${status("completed", 2)}`;
      const bytes = new TextEncoder().encode(text.replaceAll("\n", end));
      const { job } = chopped(Array.from(bytes, (_, index) => bytes.slice(index, index + 1)));
      const told = await all(job.events());
      assert.deepEqual(
        told.map(({ type }) => type),
        ["progress", "status"],
        JSON.stringify(end),
      );
      assert.deepEqual(told[0].data, { step: 1, total: 4, words: "d\u00e9j\u00e0 \u{1f5fc}" });
      assert.equal(told[1].status.state, "completed");
    }
  });

  it("that breaks is taken up after its last event, and what was half said is dropped", async () => {
    const half = "event: status\nid: 9\ndata: {";
    const { job, asked } = chopped([status("queued", 1), half, null], [status("running", 2)], 503, [
      status("failed", 3),
    ]);
    const told = await all(job.events());
    assert.deepEqual(
      told.map(({ data }) => data.state),
      ["queued", "running", "failed"],
    );
    assert.deepEqual(
      asked.map(({ last }) => last),
      [null, "1", "2", "2"],
    );
    assert.ok(
      asked.every(({ at }, index) => index === 0 || at > asked[index - 1].at),
      "never at once",
    );
  });

  it("that falls silent is not waited on for ever", async () => {
    const { job, asked } = chopped([status("running", 1), 3600], [status("completed", 2)]);
    assert.equal((await all(job.events())).length, 2);
    assert.equal(asked[1].at > 30 && asked[1].at < 32, true);
  });

  it("comes back when the server says, which may be never", async () => {
    const { job, asked } = chopped([status("running", 1), "retry: 5000\n: stopping\n\n"], 204);
    assert.equal((await all(job.events())).length, 1);
    assert.equal(asked[1].at, 5.25);
  });

  it("is given up when patience ends", async () => {
    const { job } = chopped(...Array.from({ length: 99 }, () => 502));
    await assert.rejects(all(job.events({ patience: 20 })), { code: "server_error" });
    const { job: other } = chopped(...Array.from({ length: 99 }, () => [null]));
    await assert.rejects(all(other.events({ patience: 20 })), (error) => error instanceof ConnectionFailed);
  });

  it("that tells something now and then uses up no patience", async () => {
    const lines = Array.from({ length: 20 }, (_, index) => [status("running", index + 1), null]);
    const { job } = chopped(...lines.flatMap((line) => [502, line]), [status("completed", 99)]);
    assert.equal((await all(job.events({ patience: 5 }))).length, 21);
  });

  it("asks for previews only when told", async () => {
    const { job, asked } = chopped(204, 204);
    await all(job.events());
    await all(job.events({ preview: true }));
    assert.deepEqual(
      asked.map(({ url }) => url.split("/events/")[1]),
      ["ext_1", "ext_1?preview=1"],
    );
  });
});
