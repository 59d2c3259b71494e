// The client of a server.
import { systemClock } from "./clock.js";
import { CallContext, RequestBudget, RetryBudget } from "./context.js";
import { hex } from "./images.js";
import { Job, NO_DELETION } from "./job.js";
import { configuredServer } from "./address.js";
import { InvalidRequest, NotUmrgen, Unsupported } from "./errors.js";
import { receiptWarnings, withSeed } from "./older_servers.js";
import { CALL_NAMES, DEFAULTS, unknownOption, withChanges } from "./options.js";
import { callIfSupported, post } from "./protocol.js";
import { uploadForm } from "./references.js";
import { MAX_LIST, parsePage, parseTemplate, parseUpload, parseVerification } from "./responses.js";
import { submit } from "./submit.js";
import { quoted } from "./text.js";
import { Transport } from "./transport.js";
import { BatchPoller } from "./wait_many.js";

/** @import { Clock } from "./clock.js" */
/** @import { CallOptions } from "./job.js" */
/** @import { Options } from "./options.js" */
/** @import { Deadline, Event } from "./context.js" */
/** @import { ReferenceImage } from "./references.js" */
/** @import { Status } from "./status.js" */

/**
 * In Node, Deno and Bun, `baseUrl` and `apiKey` default to UMRGEN_BASE_URL and UMRGEN_API_KEY. `fetch`, `clock` and `random` are for tests and unusual platforms.
 * @typedef {Partial<Options> & {
 *   baseUrl?: string,
 *   apiKey?: string,
 *   onEvent?: (event: Event) => void,
 *   fetch?: typeof fetch,
 *   clock?: Clock,
 *   random?: () => number,
 * }} UmrgenOptions
 */

/**
 * The parameters of an image.
 * @typedef {object} Picture
 * @property {string} [negative]
 * @property {number} [width]
 * @property {number} [height]
 * @property {number} [steps]
 * @property {number} [cfg] the guidance scale: how strictly the image follows the prompt
 * @property {string} [model] of those that the server lists in its capabilities
 * @property {number} [seed]
 * @property {readonly {name: string, strength?: number}[]} [loras]
 * @property {readonly ReferenceImage[]} [references] images to upload first
 * @property {readonly string[]} [referenceImages] names from `uploadReference`
 * @property {number} [priority] among the jobs of this key; higher is sooner
 * @property {string} [webhookUrl]
 */

/**
 * By default, a new `idempotencyKey` is generated. With `waitForSlot`, `submit` waits while the server responds that
 * the key has too many jobs. `signal` and the deadline apply to the calls of the job too.
 * @typedef {Picture & CallOptions & {
 *   idempotencyKey?: string,
 *   waitForSlot?: boolean,
 * }} SubmitOptions
 */

/**
 * `search`: words that the prompt has, in any order and case. `before` and `after`: when the job was made; a number is
 * milliseconds since the epoch.
 * @typedef {object} ListQuery
 * @property {string} [state]
 * @property {string} [search]
 * @property {boolean} [favorite] only favorites
 * @property {string} [engine]
 * @property {Date | number} [before]
 * @property {Date | number} [after]
 * @property {number} [limit] jobs of the page, at most 200
 * @property {string | null} [cursor] `nextCursor` of the page before
 */

/** The fields of a request by their names in `Picture`. @type {Record<string, string>} */
const FIELDS = {
  negative: "negative",
  width: "width",
  height: "height",
  steps: "steps",
  cfg: "cfg",
  model: "model",
  seed: "seed",
  loras: "loras",
  referenceImages: "reference_images",
  priority: "priority",
  webhookUrl: "webhook_url",
};
const SUBMIT_NAMES = [...Object.keys(FIELDS), "references", "idempotencyKey", "waitForSlot"];
const LIST_NAMES = ["state", "search", "favorite", "engine", "before", "after", "limit", "cursor"];
const CLIENT_NAMES = ["baseUrl", "apiKey", "fetch", "clock", "random"];

/** A client of one server, with one API key. */
export class Umrgen {
  #transport;
  #options;
  #budget;
  #random;
  #onEvent;
  /** The jobs of first servers, by which a lost submit is recognised. @type {Set<string>} */
  #olderJobs = new Set();

  /** @param {UmrgenOptions} [options] */
  constructor({ baseUrl, apiKey, onEvent, fetch, clock = systemClock, random = Math.random, ...options } = {}) {
    this.#options = withChanges(DEFAULTS, options, CLIENT_NAMES);
    this.#transport = new Transport(...configuredServer(baseUrl, apiKey), clock, fetch);
    this.#budget = new RequestBudget(this.#options.requestsAMinute);
    this.#random = random;
    this.#onEvent = onEvent;
  }

  /** The address of the server. */
  get baseUrl() {
    return this.#transport.baseUrl;
  }

  /**
   * Return an existing job by its id; sends no request. Throws UmrgenError for an invalid id.
   * @param {string} id
   */
  job(id) {
    return new Job(this.#factory({}), id);
  }

  /**
   * Create a job and return it without waiting for it. Throws InvalidRequest, Unauthorized, RateLimited, ConnectionFailed, ...
   * @param {string} prompt
   * @param {SubmitOptions} [options]
   */
  async submit(prompt, { idempotencyKey, waitForSlot = false, references = [], ...rest } = {}) {
    // Generated before the first attempt, so that all attempts have the same key.
    const key = idempotencyKey ?? hex(crypto.getRandomValues(new Uint8Array(16)));
    const { request, callOptions } = split(prompt, rest);
    checkValues({ ...request, idempotencyKey: key });
    const context = this.#newContext(callOptions);
    const uploaded = [];
    for (const image of references) uploaded.push((await this.#upload(context, image)).filename);
    if (uploaded.length) request.reference_images = [...(rest.referenceImages ?? []), ...uploaded];
    const sent = withSeed(request, key);
    const { jobId, warnings, raw } = await submit(context, sent, key, waitForSlot, this.#olderJobs);
    if (!("status_url" in raw)) this.#olderJobs.add(jobId);
    const all = [...warnings, ...receiptWarnings(raw, { ...sent, idempotency_key: idempotencyKey })];
    for (const warning of all) context.notify("warning", jobId, warning);
    const newContext = this.#factory(callOptions);
    return new Job(newContext, jobId, { context, request: sent, warnings: Object.freeze(all) });
  }

  /**
   * Submit, wait and download; return the verified image. One deadline applies to all of it.
   * @param {string} prompt
   * @param {SubmitOptions} [options]
   */
  async generate(prompt, options) {
    const job = await this.submit(prompt, options);
    return job.image();
  }

  /**
   * Yield the jobs in the order in which they end, each with its `outcome`, by batch calls. One deadline applies to
   * all.
   * @param {Iterable<Job>} jobs
   * @param {CallOptions} [call]
   * @returns {AsyncGenerator<Job, void>}
   */
  async *asCompleted(jobs, call = {}) {
    const byId = new Map(Array.from(jobs, (job) => [job.id, job]));
    const seen = [...byId.values()].some((job) => job.seen);
    const poller = new BatchPoller(this.#newContext(call), [...byId.keys()], seen);
    while (poller.pending.length) {
      for (const [id, outcome] of await poller.nextFinished()) {
        const job = /** @type {Job} */ (byId.get(id));
        job.outcome = outcome;
        yield job;
      }
    }
  }

  /**
   * Return a page of this key's jobs, newest first. A page of a search may have fewer jobs than `limit`, or none, and a
   * `nextCursor`. Throws Unsupported on servers without these filters.
   * @param {CallOptions & ListQuery} [query]
   * @returns {Promise<{jobs: Status[], nextCursor: string | null}>}
   */
  async jobs({ state, search, favorite, engine, before, after, limit = 50, cursor, ...call } = {}) {
    const context = this.#newContext(call, undefined, LIST_NAMES);
    const filters = { q: search, favorite: favorite ? "true" : "", engine, before: time(before), after: time(after) };
    const given = Object.entries({ limit: String(limit), state, cursor, ...filters }).filter(([, value]) => value);
    const query = new URLSearchParams(/** @type {[string, string][]} */ (given));
    const page = parsePage(await callIfSupported(context, `/jobs?${query}`, {}, { limit: MAX_LIST }));
    if (!page) throw new NotUmrgen("the response to the call for the list of jobs has no list");
    const filtered = Object.values(filters).some(Boolean);
    // A server that has these filters names favorites in every job; an earlier one ignores unknown parameters.
    if (filtered && page.jobs.some(({ raw }) => !("favorite" in raw))) throw new Unsupported("this server cannot search its list of jobs", { next: "List all jobs, and choose among them." });
    return page;
  }

  /**
   * Delete up to 1,000 jobs on the server, by their ids or as jobs; return the ids of those that this key does not have.
   * Jobs that are not over are cancelled. Throws Unsupported on older servers.
   * @param {Iterable<Job | string>} jobs
   * @param {CallOptions} [call]
   * @returns {Promise<string[]>}
   */
  async deleteJobs(jobs, call = {}) {
    const ids = Array.from(jobs, (job) => (typeof job === "string" ? this.job(job) : job).id);
    const data = await callIfSupported(this.#newContext(call), "/jobs/delete", post({ job_ids: ids }), { next: NO_DELETION });
    return Array.isArray(data.unknown) ? data.unknown.filter((id) => typeof id === "string") : [];
  }

  /**
   * Return the capabilities of the server. Throws Unsupported on older servers.
   * @param {CallOptions} [call]
   */
  async capabilities(call = {}) {
    return callIfSupported(this.#newContext(call), "/capabilities");
  }

  /**
   * Upload a reference image (PNG, JPEG or WebP); its `filename` is for `referenceImages`. Throws Unsupported on
   * servers without reference images.
   * @param {ReferenceImage} image
   * @param {CallOptions} [call]
   * @returns {Promise<{filename: string, url: string}>}
   */
  async uploadReference(image, call = {}) {
    return this.#upload(this.#newContext(call), image);
  }

  /**
   * Return the requests that this key keeps on the server, by name. Throws Unsupported on older servers.
   * @param {CallOptions} [call]
   */
  async templates(call = {}) {
    const data = await callIfSupported(this.#newContext(call), "/templates", {}, { limit: MAX_LIST });
    return Array.isArray(data.templates) ? data.templates.map(parseTemplate).filter((template) => template !== null) : [];
  }

  /**
   * Keep fields of a request on the server under a name, in place of an earlier one; return what was stored. Throws
   * InvalidRequest and Unsupported.
   * @param {string} name
   * @param {Record<string, unknown>} request by their names in the API, all optional
   * @param {CallOptions} [call]
   */
  async saveTemplate(name, request, call = {}) {
    const put = { ...post({ request }), method: "PUT" };
    const stored = parseTemplate(await callIfSupported(this.#newContext(call), templatePath(name), put));
    if (!stored) throw new NotUmrgen("the response has no template");
    return stored;
  }

  /**
   * Delete one of these requests; again is the same as once. Throws Unsupported on older servers.
   * @param {string} name
   * @param {CallOptions} [call]
   */
  async deleteTemplate(name, call = {}) {
    await callIfSupported(this.#newContext(call), templatePath(name), { method: "DELETE" });
  }

  /**
   * Ask the server whether it made an image, also when its marks were removed; the server does not store it. Throws
   * Unsupported on older servers. `inspect` of `umrgen/provenance` reads the marks in the file, without a server.
   * @param {ReferenceImage} image
   * @param {CallOptions} [call]
   */
  async verify(image, call = {}) {
    const body = await uploadForm(image);
    const found = parseVerification(await callIfSupported(this.#newContext(call), "/verify", { method: "POST", body }));
    if (!found) throw new NotUmrgen("the response has no result");
    return found;
  }

  /**
   * @param {CallContext} context
   * @param {ReferenceImage} image
   */
  async #upload(context, image) {
    const body = await uploadForm(image);
    // Not repeated when it may have reached the server: a session may hold only a few uploads.
    const noRetries = { retries: new RetryBudget(context, 0) };
    const data = await callIfSupported(context, "/upload-reference", { method: "POST", body }, noRetries);
    const uploaded = parseUpload(data);
    if (!uploaded) throw new NotUmrgen("the response to the upload has no file name");
    return uploaded;
  }

  /**
   * @param {CallOptions} call
   * @param {Deadline} [deadline]
   * @param {readonly string[]} [others] other names that the call accepts
   */
  #newContext({ signal, onEvent = this.#onEvent, ...changes }, deadline, others = []) {
    const options = withChanges(this.#options, changes, others);
    return new CallContext(this.#transport, options, this.#budget, this.#random, { signal, onEvent, deadline });
  }

  /**
   * Return the factory of the contexts of a job, whose options default to those of its submit.
   * @param {CallOptions} defaults
   * @returns {import("./job.js").ContextFactory}
   */
  #factory(defaults) {
    return (call, deadline) => this.#newContext({ ...defaults, ...call }, deadline);
  }
}

/**
 * Divide the options of a submit into the request and the options of the call. Throws TypeError for an unknown name.
 * @param {string} prompt
 * @param {Record<string, unknown>} options
 */
function split(prompt, options) {
  /** @type {Record<string, unknown>} */
  const request = { prompt };
  /** @type {CallOptions} */
  const callOptions = {};
  for (const [name, value] of Object.entries(options)) {
    if (CALL_NAMES.includes(name)) Object.assign(callOptions, { [name]: value });
    else if (!Object.hasOwn(FIELDS, name)) throw unknownOption(name, [...SUBMIT_NAMES, ...CALL_NAMES]);
    // Without undefined fields, so that the server's defaults apply.
    else if (value != null) request[FIELDS[name]] = value;
  }
  return { request, callOptions };
}

/**
 * Throw InvalidRequest for a value that cannot be sent: JSON would have `null` for a number that is not finite.
 * @param {Record<string, unknown>} values
 */
function checkValues({ idempotencyKey, ...request }) {
  for (const [name, value] of Object.entries(request)) {
    const parts = [value].flat().flatMap((part) => (part && typeof part === "object" ? Object.values(part) : [part]));
    for (const part of parts) {
      if (typeof part === "number" && !Number.isFinite(part)) throw new InvalidRequest(`${name} must have finite numbers; got ${part}`);
      if (typeof part === "string" && /\p{Surrogate}/u.test(part)) throw new InvalidRequest(`${name} is not valid Unicode; got ${quoted(part, 60)}`);
    }
  }
  if (!/^[\x21-\x7e]{1,255}$/.test(String(idempotencyKey))) {
    const rule = "idempotencyKey must have 1 to 255 visible ASCII characters";
    throw new InvalidRequest(`${rule}; got ${quoted(String(idempotencyKey), 60)}`);
  }
}

/**
 * Return a time as the server reads it; "" for none.
 * @param {Date | number | undefined} time
 */
function time(time) {
  return time === undefined ? "" : String(Math.round(Number(time)));
}

/** @param {string} name */
function templatePath(name) {
  return `/templates/${encodeURIComponent(name)}`;
}
