// Values that no request can have are refused before anything is sent.
import assert from "node:assert/strict";
import { it } from "node:test";
import { Umrgen } from "../src/index.js";

const fetch = () => assert.fail("a request was sent");
const umrgen = new Umrgen({ baseUrl: "http://127.0.0.1:9", apiKey: "key", fetch });
const invalid = (/** @type {RegExp} */ message) => ({ code: "invalid_request", message });

it("refuses a number that is not finite, which JSON would have as null", async () => {
  await assert.rejects(umrgen.submit("a boat", { cfg: NaN }), invalid(/^cfg must have finite numbers; got NaN/));
  await assert.rejects(umrgen.submit("a boat", { loras: [{ name: "a", strength: Infinity }] }), invalid(/^loras must have finite/));
});

it("refuses a text with a lone surrogate", async () => {
  await assert.rejects(umrgen.submit("a \ud800"), invalid(/^prompt is not valid Unicode/));
  await assert.rejects(umrgen.submit("a boat", { loras: [{ name: "\udc00" }] }), invalid(/^loras is not valid Unicode/));
});

it("refuses an idempotency key that its header cannot have", async () => {
  for (const idempotencyKey of ["", "café", "a\nb", "a".repeat(256)]) {
    await assert.rejects(umrgen.submit("a boat", { idempotencyKey }), invalid(/^idempotencyKey must have 1 to 255 visible ASCII/));
  }
});

it("refuses a time limit that is no number of at least 0", async () => {
  for (const timeout of [NaN, -5]) {
    assert.throws(() => new Umrgen({ baseUrl: "http://127.0.0.1:9", timeout }), { code: "bad_option", message: /^timeout must be/ });
    await assert.rejects(umrgen.job("ext_1").wait({ timeout }), { code: "bad_option" });
  }
});

it("accepts pairs of surrogates in every text", async () => {
  const sent = [];
  const recording = async (/** @type {string} */ url, /** @type {RequestInit} */ init) => {
    sent.push(JSON.parse(String(init.body)));
    return new Response(JSON.stringify({ job_id: "ext_1", status_url: "/x" }), { status: 202 });
  };
  const open = new Umrgen({ baseUrl: "http://127.0.0.1:9", fetch: recording });
  await open.submit("a 🚢", { referenceImages: ["🚢.png"], loras: [{ name: "🚢", strength: 0.5 }], seed: 1 });
  assert.deepEqual(sent[0].reference_images, ["🚢.png"]);
});
