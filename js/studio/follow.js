// Following the jobs that are not over, over few connections: a browser opens six to one server, for all tabs together.
//
//   ends    one held call for all of them: none is missed
//   front   the events of the one that is drawn: its steps and previews
//   looks   now and then, the places of the next few in line
//   list    now and then, what was made elsewhere (the command line, another tab)
//
// A tab that nobody looks at follows nothing. Coming back to it, to the network or from sleep begins all anew.
import { JobNotFound, Unauthorized, UmrgenError } from "../src/index.js";
import { tell } from "./dom.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Connection } from "./connection.js" */
/** @import { Jobs } from "./jobs.js" */

/** Waits here end when the person leaves, not before. */
const FOREVER = { timeout: null, patience: Infinity, submitPatience: Infinity, longestBackoff: 4 };
const LOOK_EVERY = 3;
const LOOKS = 6;
const LIST_EVERY = 20;
const LIST_WHEN_LOST = 2;
const GATHER = 0.2;
const SLEPT = 15;

export class Follower extends EventTarget {
  /** @type {AbortController | null} */
  #life = null;
  #leaving = new AbortController();
  #umrgen;
  #jobs;
  #connection;

  /**
   * @param {Umrgen} umrgen
   * @param {Jobs} jobs
   * @param {Connection} connection
   */
  constructor(umrgen, jobs, connection) {
    super();
    this.#umrgen = umrgen;
    this.#jobs = jobs;
    this.#connection = connection;
  }

  start() {
    const { signal } = this.#leaving;
    const anew = () => this.#anew();
    document.addEventListener("visibilitychange", anew, { signal });
    addEventListener("online", anew, { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && anew(), { signal });
    this.#watchForSleep(signal);
    anew();
  }

  stop() {
    this.#leaving.abort();
    this.#life?.abort();
  }

  #anew() {
    this.#life?.abort();
    if (document.hidden || this.#leaving.signal.aborted) return;
    this.#life = new AbortController();
    const { signal } = this.#life;
    for (const loop of [this.#ends, this.#front, this.#looks, this.#list]) this.#run(loop, signal);
  }

  /** A timer that comes much too late has slept, and so have the connections. @param {AbortSignal} signal */
  async #watchForSleep(signal) {
    const aborted = () => {};
    for (let before = Date.now(); !signal.aborted; before = Date.now()) {
      await pause(5, signal).catch(aborted);
      if (Date.now() - before > SLEPT * 1000) this.#anew();
    }
  }

  /**
   * @param {(signal: AbortSignal) => Promise<void>} loop
   * @param {AbortSignal} signal
   */
  async #run(loop, signal) {
    while (!signal.aborted) {
      try {
        await loop.call(this, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Unauthorized) return tell(this, "unauthorized");
        if (!(error instanceof UmrgenError)) throw error;
        await pause(2, signal).catch(() => {});
      }
    }
  }

  /** Wait for the end of each, until there are others to wait for. @param {AbortSignal} signal */
  async #ends(signal) {
    const jobs = this.#jobs.pending.map(({ id }) => this.#umrgen.job(id));
    const others = new AbortController();
    // Whoever sends many sends them one after the other: they are taken in together.
    const soon = () => setTimeout(() => others.abort(), GATHER * 1000);
    this.#jobs.addEventListener("grown", soon, { once: true, signal: others.signal });
    const both = AbortSignal.any([signal, others.signal]);
    try {
      if (!jobs.length) return await pause(Infinity, both);
      for await (const { id, outcome } of this.#umrgen.asCompleted(jobs, { ...FOREVER, signal: both })) {
        this.#connection.good();
        if (outcome instanceof UmrgenError) this.#jobs.forget(id);
        else if (outcome) this.#jobs.learn(outcome);
      }
    } catch (error) {
      if (signal.aborted || !others.signal.aborted) throw error;
    } finally {
      others.abort();
    }
  }

  /** What happens to the first in line. @param {AbortSignal} signal */
  async #front(signal) {
    const [front] = this.#jobs.pending;
    if (!front) return heard(this.#jobs, ["grown"], signal);
    const { id } = front;
    try {
      for await (const { type, data, status } of this.#umrgen.job(id).events({ ...FOREVER, preview: true, signal })) {
        this.#connection.good();
        if (status) this.#jobs.learn(status);
        else if (type === "progress") this.#jobs.step(id, /** @type {any} */ (data));
        else if (type === "preview") this.#jobs.note(id, { preview: `data:${data.media_type};base64,${data.data}` });
        if (this.#jobs.pending[0]?.id !== id) return; // over, or another is drawn
      }
    } catch (error) {
      if (!(error instanceof JobNotFound)) throw error;
      this.#jobs.forget(id);
    }
    if (this.#jobs.pending[0]?.id === id) await pause(1, signal);
  }

  /** @param {AbortSignal} signal */
  async #looks(signal) {
    for (const { id } of this.#jobs.pending.slice(1, 1 + LOOKS)) {
      try {
        this.#jobs.learn(await this.#umrgen.job(id).status({ ...FOREVER, signal }));
        this.#connection.good();
      } catch (error) {
        if (!(error instanceof JobNotFound)) throw error;
        this.#jobs.forget(id);
      }
    }
    await pause(GATHER, signal);
    await heard(this.#jobs, ["grown", "over"], signal, LOOK_EVERY); // an end moves all that come after it
  }

  /** @param {AbortSignal} signal */
  async #list(signal) {
    for (const query of [{ state: "running", limit: 50 }, { state: "queued", limit: 200 }, { limit: 20 }]) {
      const { jobs } = await this.#umrgen.jobs({ ...FOREVER, ...query, signal });
      this.#connection.good();
      for (const status of jobs) this.#jobs.learn(status);
    }
    tell(this, "listed");
    const since = Date.now();
    const due = () => (this.#connection.lost ? LIST_WHEN_LOST : LIST_EVERY) * 1000;
    while (Date.now() - since < due()) await pause(LIST_WHEN_LOST, signal);
  }
}

/**
 * Throws the signal's reason when it is aborted: a loop that slept on would never let go of the page.
 * @param {number} seconds
 * @param {AbortSignal} signal
 */
function pause(seconds, signal) {
  return heard(new EventTarget(), [], signal, seconds);
}

/**
 * Wait for an event of one of these types, or so many seconds. Throws the signal's reason when it is aborted.
 * @param {EventTarget} target
 * @param {string[]} types
 * @param {AbortSignal} signal
 * @param {number} [seconds]
 * @returns {Promise<void>}
 */
function heard(target, types, signal, seconds = Infinity) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const done = new AbortController();
    const end = (/** @type {() => void} */ how) => () => {
      done.abort();
      clearTimeout(timer);
      how();
    };
    const timer = seconds === Infinity ? undefined : setTimeout(end(resolve), seconds * 1000);
    for (const type of types) target.addEventListener(type, end(resolve), { signal: done.signal });
    signal.addEventListener("abort", end(() => reject(signal.reason)), { signal: done.signal });
  });
}
