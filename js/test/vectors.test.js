// The rules of the Python client, as its flows give them, played against this one: tests/vectors/make.py tells how.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { Umrgen, UmrgenError, verify } from "../src/index.js";
import { promisedDigest } from "../src/images.js";
import { announcedSize, continues, rangeHeaders, resolveOutput, Stale } from "../src/outputs.js";
import { scripted, VirtualClock } from "./support/virtual.js";

const BASE = "http://umrgen.example";

function vectors(name) {
  return JSON.parse(readFileSync(new URL(`../../tests/vectors/${name}.json`, import.meta.url), "utf8"));
}

const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
const camelled = (given = {}) => Object.fromEntries(Object.entries(given).map(([name, value]) => [camel(name), value]));

/** What each flow of the vectors is called here. */
const FLOWS = {
  wait: (umrgen) => umrgen.job("ext_1").wait(),
  async watch(umrgen) {
    let last;
    for await (const status of umrgen.job("ext_1")) last = status;
    return last;
  },
  submit: (umrgen) => umrgen.submit("x", { idempotencyKey: "key-1" }),
  submit_for_slot: (umrgen) => umrgen.submit("x", { idempotencyKey: "key-1", waitForSlot: true }),
  async many(umrgen) {
    const over = [];
    const jobs = ["ext_0", "ext_1", "ext_2"].map((id) => umrgen.job(id));
    for await (const job of umrgen.asCompleted(jobs)) over.push(job);
    return over.map((job) => ({ id: job.id, outcome: job.outcome }));
  },
};

/** Only what the vector names: a status here has more. */
function outcomeLike(expected, outcome) {
  if (Array.isArray(expected)) {
    return (
      outcome.map?.(({ id, outcome: one }, index) => ({ job_id: id, ...outcomeLike(expected[index], one) })) ?? outcome
    );
  }
  const name = (field) => (field === "error" && outcome instanceof UmrgenError ? "name" : camel(field));
  const told = Object.keys(expected).map((field) => [field, outcome[name(field)] ?? null]);
  if (!("state" in expected) && !("error" in expected)) return { job_id: outcome.id };
  return Object.fromEntries(told);
}

for (const [group, cases] of Object.entries(vectors("waits"))) {
  describe(group, () => {
    for (const vector of cases) {
      it(vector.name, async () => {
        const clock = new VirtualClock();
        const { fetch, requests } = scripted(clock, BASE, vector);
        const events = [];
        const onEvent = ({ kind }) => events.push(kind);
        const options = { ...camelled(vector.options), clock, fetch, onEvent, random: () => 0.5 };
        const umrgen = new Umrgen({ baseUrl: BASE, apiKey: "k", ...options });
        const outcome = await FLOWS[vector.flow](umrgen).catch((error) => {
          if (error instanceof UmrgenError) return error;
          throw error;
        });
        const rounded = requests.map((request) => ({ ...request, at: Math.round(request.at * 1000) / 1000 }));
        assert.deepEqual(rounded, vector.requests);
        assert.deepEqual(events, vector.events);
        assert.deepEqual(outcomeLike(vector.outcome, outcome), vector.outcome);
      });
    }
  });
}

describe("addresses", () => {
  for (const { base_url, image_url, follow_foreign, outcome } of vectors("addresses").addresses) {
    it(`${JSON.stringify(image_url)} of ${base_url}${follow_foreign ? ", foreign allowed" : ""}`, () => {
      let told;
      try {
        const { url, withKey } = resolveOutput(base_url, image_url, follow_foreign);
        told = { url, with_key: withKey };
      } catch (error) {
        told = { error: error.name, code: error.code };
      }
      assert.deepEqual(told, outcome);
    });
  }
});

describe("downloads", () => {
  for (const { status, headers: given, have, asked, outcome } of vectors("downloads").downloads) {
    it(`${status} ${JSON.stringify(given)} with ${JSON.stringify(have)}`, () => {
      const headers = new Headers(given);
      const { Range, "If-Range": ifRange } = rangeHeaders(have);
      assert.deepEqual({ ...(Range && { Range }), ...(ifRange && { "If-Range": ifRange }) }, asked);
      let told;
      try {
        told = { continues: continues(status, headers, have), size: announcedSize(status, headers) };
        told.sha256 = promisedDigest(headers, status === 206);
      } catch (error) {
        told = error instanceof Stale ? { error: "stale" } : { error: error.name, code: error.code };
      }
      assert.deepEqual(told, outcome);
    });
  }
});

describe("images", () => {
  for (const { name, base64, promised, outcome } of vectors("images").images) {
    it(name, async () => {
      let told;
      try {
        const { mediaType, sha256, width, height } = await verify(
          new Uint8Array(Buffer.from(base64, "base64")),
          promised,
        );
        told = { media_type: mediaType, sha256, width, height };
      } catch (error) {
        told = { error: error.name, code: error.code };
      }
      assert.deepEqual(told, outcome);
    });
  }
});
