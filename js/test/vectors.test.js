// The test vectors of the Python client's flows (tests/vectors/make.py), run against this client.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { Umrgen, UmrgenError, verify } from "../src/index.js";
import { digestFromHeaders } from "../src/images.js";
import { expectedSize, hasImage, isContinuation, rangeHeaders, resolveOutput, StalePartial } from "../src/download.js";
import { printable } from "../src/text.js";
import { scripted, VirtualClock } from "./support/virtual.js";

const BASE = "http://umrgen.example";

function vectors(name) {
  return JSON.parse(readFileSync(new URL(`../../tests/vectors/${name}.json`, import.meta.url), "utf8"));
}

const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
const withCamelCase = (given = {}) => Object.fromEntries(Object.entries(given).map(([name, value]) => [camel(name), value]));

/** The call for each flow of the vectors. */
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
    const finished = [];
    const jobs = ["ext_0", "ext_1", "ext_2"].map((id) => umrgen.job(id));
    for await (const job of umrgen.asCompleted(jobs)) finished.push(job);
    return finished.map((job) => ({ id: job.id, outcome: job.outcome }));
  },
};

/** The outcome, reduced to the fields of the vector. */
function outcomeLike(expected, outcome) {
  if (Array.isArray(expected)) {
    return (
      outcome.map?.(({ id, outcome: one }, index) => ({ job_id: id, ...outcomeLike(expected[index], one) })) ?? outcome
    );
  }
  const name = (field) => (field === "error" && outcome instanceof UmrgenError ? "name" : camel(field));
  const fields = Object.keys(expected).map((field) => [field, outcome[name(field)] ?? null]);
  if (!("state" in expected) && !("error" in expected)) return { job_id: outcome.id };
  return Object.fromEntries(fields);
}

const { texts, downloads: gatewayDownloads, ...origins } = vectors("origins");

for (const [group, cases] of Object.entries({ ...vectors("waits"), ...origins })) {
  describe(group, () => {
    for (const vector of cases) {
      it(vector.name, async () => {
        const clock = new VirtualClock();
        const { fetch, requests } = scripted(clock, BASE, vector);
        const events = [];
        const onEvent = ({ kind }) => kind !== "warning" && events.push(kind); // a flow gives none
        const options = { ...withCamelCase(vector.options), clock, fetch, onEvent, random: () => 0.5 };
        const umrgen = new Umrgen({ baseUrl: BASE, apiKey: "k", ...options });
        const outcome = await FLOWS[vector.flow](umrgen).catch((error) => {
          if (error instanceof UmrgenError) return error;
          throw error;
        });
        const rounded = requests.map((request) => ({ ...request, at: Math.round(request.at * 1000) / 1000 }));
        for (const { body } of rounded.filter(({ path }) => path.endsWith("/generate"))) {
          assert.ok(Number.isInteger(body.seed)); // the client's own; the flows of the vectors add none
          delete body.seed;
        }
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
      let actual;
      try {
        const { url, withKey } = resolveOutput(base_url, image_url, follow_foreign);
        actual = { url, with_key: withKey };
      } catch (error) {
        actual = { error: error.name, code: error.code };
      }
      assert.deepEqual(actual, outcome);
    });
  }
});

describe("downloads", () => {
  for (const { status, headers: given, have, asked, outcome } of vectors("downloads").downloads) {
    it(`${status} ${JSON.stringify(given)} with ${JSON.stringify(have)}`, () => {
      const headers = new Headers(given);
      const { Range, "If-Range": ifRange } = rangeHeaders(have);
      assert.deepEqual({ ...(Range && { Range }), ...(ifRange && { "If-Range": ifRange }) }, asked);
      let actual;
      try {
        actual = { continues: isContinuation(status, headers, have), size: expectedSize(status, headers) };
        actual.sha256 = digestFromHeaders(headers, status === 206);
      } catch (error) {
        actual = error instanceof StalePartial ? { error: "stale" } : { error: error.name, code: error.code };
      }
      assert.deepEqual(actual, outcome);
    });
  }
});

describe("images", () => {
  for (const { name, base64, promised, outcome } of vectors("images").images) {
    it(name, async () => {
      let actual;
      try {
        const { mediaType, sha256, width, height } = await verify(
          new Uint8Array(Buffer.from(base64, "base64")),
          promised,
        );
        actual = { media_type: mediaType, sha256, width, height };
      } catch (error) {
        actual = { error: error.name, code: error.code };
      }
      assert.deepEqual(actual, outcome);
    });
  }
});

describe("texts from elsewhere", () => {
  for (const { text, printable: shown } of texts) {
    it(JSON.stringify(text.slice(0, 40)), () => assert.equal(printable(text), shown));
  }
});

describe("downloads through gateways", () => {
  for (const { name, status, headers, body, outcome } of gatewayDownloads) {
    it(`${status} of ${name}`, () => {
      let actual;
      try {
        const error = hasImage(status, new Headers(headers)) ? "" : body;
        actual = { continues: isContinuation(status, new Headers(headers), { size: 0, validator: "" }, { error }) };
      } catch (error) {
        actual = error.name === "NotUmrgen" ? { retry: true } : { error: error.name, code: error.code };
      }
      assert.deepEqual(actual, outcome);
    });
  }
});
