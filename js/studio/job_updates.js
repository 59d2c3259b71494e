// Updates of the pending jobs, over few connections: a browser opens six to one server, for all tabs together.
//
//   ends      one long poll for all of them, so that no end is missed
//   running   the events of the running job: its steps and previews
//   queue     at intervals, the queue positions of the next few jobs
//   list      at intervals, jobs that were submitted elsewhere (the command line, another tab)
//
// A hidden tab keeps no connection: it only asks for the status of the next job at intervals, while there is one. All
// loops start again when the tab is shown, the network returns or the device wakes.
import { JobNotFound, Unauthorized, UmrgenError } from "../src/index.js";
import { emit } from "./dom.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Connection } from "./connection.js" */
/** @import { Jobs } from "./jobs.js" */

/** The waits of the page have no time limit. */
const NO_LIMIT = { timeout: null, patience: Infinity, submitPatience: Infinity, longestBackoff: 4 };
/** Seconds between updates of the queue positions, and the number of jobs in one. */
const QUEUE_INTERVAL = 3;
const QUEUE_LENGTH = 6;
/** Seconds between lists, and between attempts while the server is not reachable. */
const LIST_INTERVAL = 20;
const LIST_RETRY = 2;
/** Seconds between the status calls of a hidden tab; browsers extend them to a minute after some time. */
const HIDDEN_INTERVAL = 5;
/** Seconds in which new jobs are collected before a new long poll. */
const COLLECT = 0.2;
/** A timer that is late by this many seconds shows that the device was asleep. */
const SLEEP = 15;

/** Keeps the jobs of the page up to date. Emits `listed` and `unauthorized`. */
export class JobUpdater extends EventTarget {
  /** @type {AbortController | null} */
  #loops = null;
  #stopped = new AbortController();
  /** At first, the gallery loads the latest jobs. */
  #isFirstList = true;
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

  /** Start the loops. */
  start() {
    const { signal } = this.#stopped;
    const restart = () => this.#restart();
    document.addEventListener("visibilitychange", restart, { signal });
    addEventListener("online", restart, { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && restart(), { signal });
    this.#watchForSleep(signal);
    restart();
  }

  /** Stop the loops. */
  stop() {
    this.#stopped.abort();
    this.#loops?.abort();
  }

  #restart() {
    this.#loops?.abort();
    if (this.#stopped.signal.aborted) return;
    this.#loops = new AbortController();
    const { signal } = this.#loops;
    const loops = document.hidden ? [this.#hidden] : [this.#ends, this.#running, this.#queue, this.#list];
    for (const loop of loops) this.#run(loop, signal);
  }

  /** Restart after the device was asleep: then the connections may be broken. @param {AbortSignal} signal */
  async #watchForSleep(signal) {
    const aborted = () => {};
    for (let before = Date.now(); !signal.aborted; before = Date.now()) {
      await pause(5, signal).catch(aborted);
      if (Date.now() - before > SLEEP * 1000) this.#restart();
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
        // Without the code of the API, a 401 may be a gateway's.
        if (error instanceof Unauthorized && error.coded) return emit(this, "unauthorized");
        if (!(error instanceof UmrgenError)) throw error;
        await pause(2, signal).catch(() => {});
      }
    }
  }

  /** Wait for the end of each pending job, until there are new ones. @param {AbortSignal} signal */
  async #ends(signal) {
    const jobs = this.#jobs.pending.map(({ id }) => this.#umrgen.job(id));
    const added = new AbortController();
    // Several jobs are submitted one after the other: collect them.
    const restart = () => setTimeout(() => added.abort(), COLLECT * 1000);
    this.#jobs.addEventListener("added", restart, { once: true, signal: added.signal });
    const combined = AbortSignal.any([signal, added.signal]);
    try {
      if (!jobs.length) return await pause(Infinity, combined);
      for await (const { id, outcome } of this.#umrgen.asCompleted(jobs, { ...NO_LIMIT, signal: combined })) {
        this.#connection.succeeded();
        if (outcome instanceof JobNotFound) this.#jobs.remove(id);
        else if (outcome && !(outcome instanceof UmrgenError)) this.#jobs.update(outcome);
      }
    } catch (error) {
      if (signal.aborted || !added.signal.aborted) throw error;
    } finally {
      added.abort();
    }
  }

  /** Follow the events of the first pending job. @param {AbortSignal} signal */
  async #running(signal) {
    const [first] = this.#jobs.pending;
    if (!first) return waitFor(this.#jobs, ["added"], signal);
    const { id } = first;
    try {
      for await (const { type, data, status } of this.#umrgen.job(id).events({ ...NO_LIMIT, preview: true, signal })) {
        this.#connection.succeeded();
        if (status) this.#jobs.update(status);
        else if (type === "progress") this.#jobs.step(id, /** @type {any} */ (data));
        else if (type === "preview") this.#jobs.patch(id, { preview: `data:${data.media_type};base64,${data.data}` });
        if (this.#jobs.pending[0]?.id !== id) return; // over, or another job is running
      }
    } catch (error) {
      if (!(error instanceof JobNotFound)) throw error;
      this.#jobs.remove(id);
    }
    if (this.#jobs.pending[0]?.id === id) await pause(1, signal);
  }

  /** @param {AbortSignal} signal */
  async #queue(signal) {
    // An end changes the positions of the others. Listen first: jobs are added while the statuses are fetched.
    const changed = waitFor(this.#jobs, ["added", "finished"], signal, QUEUE_INTERVAL);
    changed.catch(() => {});
    for (const { id } of this.#jobs.pending.slice(1, 1 + QUEUE_LENGTH)) {
      try {
        this.#jobs.update(await this.#umrgen.job(id).status({ ...NO_LIMIT, signal }));
        this.#connection.succeeded();
      } catch (error) {
        if (!(error instanceof JobNotFound)) throw error;
        this.#jobs.remove(id);
      }
    }
    await changed;
    await pause(COLLECT, signal);
  }

  /** Follow the first pending job of a hidden tab, for its title and the notification. @param {AbortSignal} signal */
  async #hidden(signal) {
    await pause(HIDDEN_INTERVAL, signal);
    const [first] = this.#jobs.pending;
    if (!first) return waitFor(this.#jobs, ["added"], signal);
    try {
      this.#jobs.update(await this.#umrgen.job(first.id).status({ ...NO_LIMIT, signal }));
      this.#connection.succeeded();
    } catch (error) {
      if (!(error instanceof JobNotFound)) throw error;
      this.#jobs.remove(first.id);
    }
  }

  /** @param {AbortSignal} signal */
  async #list(signal) {
    const queries = [{ state: "running", limit: 50 }, { state: "queued", limit: 200 }, ...(this.#isFirstList ? [] : [{ limit: 20 }])];
    this.#isFirstList = false;
    for (const query of queries) {
      const { jobs } = await this.#umrgen.jobs({ ...NO_LIMIT, ...query, signal });
      this.#connection.succeeded();
      for (const status of jobs) this.#jobs.update(status);
    }
    emit(this, "listed");
    const since = Date.now();
    const due = () => (this.#connection.lost ? LIST_RETRY : LIST_INTERVAL) * 1000;
    while (Date.now() - since < due()) await pause(LIST_RETRY, signal);
  }
}

/**
 * Wait some seconds. Throws the reason of the signal when it is aborted.
 * @param {number} seconds
 * @param {AbortSignal} signal
 */
function pause(seconds, signal) {
  return waitFor(new EventTarget(), [], signal, seconds);
}

/**
 * Wait for an event of one of these types, or some seconds. Throws the reason of the signal when it is aborted.
 * @param {EventTarget} target
 * @param {string[]} types
 * @param {AbortSignal} signal
 * @param {number} [seconds]
 * @returns {Promise<void>}
 */
function waitFor(target, types, signal, seconds = Infinity) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const done = new AbortController();
    const end = (/** @type {() => void} */ settle) => () => {
      done.abort();
      clearTimeout(timer);
      settle();
    };
    const timer = seconds === Infinity ? undefined : setTimeout(end(resolve), seconds * 1000);
    for (const type of types) target.addEventListener(type, end(resolve), { signal: done.signal });
    signal.addEventListener("abort", end(() => reject(signal.reason)), { signal: done.signal });
  });
}
