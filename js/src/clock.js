// The clock of this package: no other module reads a clock or sets a timer.

/**
 * `now` is monotonic, `wall` since the epoch; both in seconds. A sleep rejects immediately, with the signal's
 * reason, when `signal` is aborted.
 * @typedef {object} Clock
 * @property {() => number} now
 * @property {() => number} wall
 * @property {(seconds: number, signal?: AbortSignal) => Promise<void>} sleep
 */

/** The longest delay of a timer; a longer one would fire immediately. */
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
 * Run `work` and return its result; call `onTimeout` when it takes longer than `seconds`.
 * @template T
 * @param {Clock} clock
 * @param {number} seconds
 * @param {() => void} onTimeout
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function withTimeout(clock, seconds, onTimeout, work) {
  const done = new AbortController();
  clock.sleep(seconds, done.signal).then(onTimeout, () => {});
  try {
    return await work();
  } finally {
    done.abort();
  }
}
