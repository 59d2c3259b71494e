// Time, as it comes into this package: nothing else here looks at a clock or sets a timer.

/**
 * `now` is monotonic, `wall` since the epoch; both in seconds. A sleep ends at once, with the signal's
 * reason, when `signal` is aborted.
 * @typedef {object} Clock
 * @property {() => number} now
 * @property {() => number} wall
 * @property {(seconds: number, signal?: AbortSignal) => Promise<void>} sleep
 */

/** What a timer can count to; with more it would go off at once. */
const LONGEST_MS = 2 ** 31 - 1;

/** @type {Clock} */
export const systemClock = {
  now: () => performance.now() / 1000,
  wall: () => Date.now() / 1000,
  sleep: (seconds, signal) =>
    new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(
        () => {
          signal?.removeEventListener("abort", stop);
          resolve();
        },
        Math.min(seconds * 1000, LONGEST_MS),
      );
      if (signal?.aborted) stop();
      signal?.addEventListener("abort", stop, { once: true });
    }),
};

/**
 * The result of `work`; `late` is called if it takes longer than `seconds`.
 * @template T
 * @param {Clock} clock
 * @param {number} seconds
 * @param {() => void} late
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function within(clock, seconds, late, work) {
  const done = new AbortController();
  clock.sleep(seconds, done.signal).then(late, () => {});
  try {
    return await work();
  } finally {
    done.abort();
  }
}
