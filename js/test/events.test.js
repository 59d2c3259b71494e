// Server-Sent Events: from a real server, and in arbitrary chunks.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ConnectionFailed, JobNotFound, Umrgen, verify } from "../src/index.js";
import { realServer } from "./support/servers.js";
import { VirtualClock } from "./support/virtual.js";

const server = await realServer("--step-delay", "0.2");
const umrgen = new Umrgen({ baseUrl: server.url, apiKey: server.key });
const SMALL = { width: 512, height: 512, steps: 3 };

async function all(events) {
  const received = [];
  for await (const event of events) received.push(event);
  return received;
}

describe("the real server's events", () => {
  it("report each change until the end, with previews on request", async () => {
    const job = await umrgen.submit("a boat", SMALL);
    const received = await all(job.events({ preview: true }));
    const states = received.filter(({ type }) => type === "status").map(({ status }) => status.state);
    assert.equal(states.at(-1), "completed");
    assert.ok(received.some(({ type, data }) => type === "progress" && data.total === 3));
    const preview = received.find(({ type }) => type === "preview");
    const facts = await verify(new Uint8Array(Buffer.from(preview.data.data, "base64")));
    assert.equal(facts.mediaType, "image/jpeg");
  });

  it("have no previews by default", async () => {
    const received = await all((await umrgen.submit("a boat", SMALL)).events());
    assert.ok(received.length >= 2);
    assert.deepEqual(
      received.filter(({ type }) => type === "preview"),
      [],
    );
  });

  it("of an unknown job are an error", async () => {
    await assert.rejects(
      umrgen.job("ext_unknown").events().next(),
      (error) => error instanceof JobNotFound && error.coded,
    );
  });

  it("can be closed early, and aborted by a signal", async () => {
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

/**
 * Return a job whose event streams consist of these pieces: texts, `null` for a broken connection, or seconds of delay.
 */
function withStreams(...streams) {
  const requests = [];
  const clock = new VirtualClock();
  const fetch = async (url, { headers, signal }) => {
    requests.push({ at: Math.round(clock.now() * 1000) / 1000, last: new Headers(headers).get("last-event-id"), url });
    const pieces = streams[requests.length - 1];
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
    return new Response(body, { status: 200, headers: { "Content-Type": "text/event-stream" } });
  };
  const client = new Umrgen({ baseUrl: "http://umrgen.example", fetch, clock, random: () => 0.5 });
  return { job: client.job("ext_1"), requests };
}

const status = (state, id) => `event: status\nid: ${id}\ndata: {"state": "${state}"}\n\n`;

describe("an event stream", () => {
  it("is parsed in any chunks, with either line end", async () => {
    for (const end of ["\n", "\r\n"]) {
      const progress = `event: progress\ndata: {"step": 1,\ndata:  "total": 4, "words": "d\u00e9j\u00e0 \u{1f5fc}"}\n\n`;
      const text = `: hello\n\n${progress}${status("completed", 2)}`;
      const bytes = new TextEncoder().encode(text.replaceAll("\n", end));
      const { job } = withStreams(Array.from(bytes, (_, index) => bytes.slice(index, index + 1)));
      const received = await all(job.events());
      assert.deepEqual(
        received.map(({ type }) => type),
        ["progress", "status"],
        JSON.stringify(end),
      );
      assert.deepEqual(received[0].data, { step: 1, total: 4, words: "d\u00e9j\u00e0 \u{1f5fc}" });
      assert.equal(received[1].status.state, "completed");
    }
  });

  it("is resumed after its last complete event", async () => {
    const half = "event: status\nid: 9\ndata: {";
    const { job, requests } = withStreams([status("queued", 1), half, null], [status("running", 2)], 503, [
      status("failed", 3),
    ]);
    const received = await all(job.events());
    assert.deepEqual(
      received.map(({ data }) => data.state),
      ["queued", "running", "failed"],
    );
    assert.deepEqual(
      requests.map(({ last }) => last),
      [null, "1", "2", "2"],
    );
    assert.ok(
      requests.every(({ at }, index) => index === 0 || at > requests[index - 1].at),
      "there must be a delay",
    );
  });

  it("is resumed after the idle timeout", async () => {
    const { job, requests } = withStreams([status("running", 1), 3600], [status("completed", 2)]);
    assert.equal((await all(job.events())).length, 2);
    assert.equal(requests[1].at > 30 && requests[1].at < 32, true);
  });

  it("is resumed after the `retry` of the server, or ends with a 204", async () => {
    const { job, requests } = withStreams([status("running", 1), "retry: 5000\n: stopping\n\n"], 204);
    assert.equal((await all(job.events())).length, 1);
    assert.equal(requests[1].at, 5.25);
  });

  it("ends with an error after the retry budget", async () => {
    const { job } = withStreams(...Array.from({ length: 99 }, () => 502));
    await assert.rejects(all(job.events({ patience: 20 })), { code: "server_error" });
    const { job: other } = withStreams(...Array.from({ length: 99 }, () => [null]));
    await assert.rejects(all(other.events({ patience: 20 })), (error) => error instanceof ConnectionFailed);
  });

  it("resets the retry budget with each event", async () => {
    const streams = Array.from({ length: 20 }, (_, index) => [status("running", index + 1), null]);
    const { job } = withStreams(...streams.flatMap((stream) => [502, stream]), [status("completed", 99)]);
    assert.equal((await all(job.events({ patience: 5 }))).length, 21);
  });

  it("requests previews only with the option", async () => {
    const { job, requests } = withStreams(204, 204);
    await all(job.events());
    await all(job.events({ preview: true }));
    assert.deepEqual(
      requests.map(({ url }) => url.split("/events/")[1]),
      ["ext_1", "ext_1?preview=1"],
    );
  });
});
