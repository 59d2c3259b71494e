// All limits and intervals: the same names (in camel case), meanings and defaults as in the Python client.
import { UmrgenError } from "./errors.js";
import { quoted } from "./text.js";

const defaults = {
  /** The deadline for a whole call: submit, wait, back off, download. null: no deadline. @type {number | null} */
  timeout: 600,
  /** The longest time a job may be `queued`, within `timeout`. null: no limit. @type {number | null} */
  queueTimeout: null,
  /** The longest long poll to request; below the idle limits of common proxies. 0: no long polls. */
  wait: 25,
  /** Whether a wait requests each change of the status, to report it, or only the final one (fewer requests). */
  follow: false,
  /** The interval between status calls for a queued job, unless the server sets another. */
  queuedInterval: 3,
  /** The interval between status calls for a running job, unless the server sets another. */
  runningInterval: 2,
  /** The share by which both intervals vary at random, so that clients do not poll in step. */
  jitter: 0.1,
  /** The share of the server's estimate that passes before the first status call: few jobs take less. */
  etaShare: 0.55,
  /** The longest sleep based on an estimate: estimates are often wrong, and an image may be early. */
  etaInterval: 10,
  /** The cap on any delay that the server requests. */
  longestDelay: 60,
  /** Calls per minute to a server without long polls; older servers refuse the 61st. */
  requestsAMinute: 55,
  /** A job that is `running` for this long without a change is reported as stalled. */
  stallAfter: 60,
  /** Whether a stalled job is only reported, or ends the wait with JobStalled. @type {"report" | "raise"} */
  onStall: "report",
  /** How long status calls are retried while the server is unreachable or failing, since its last valid response. */
  patience: 300,
  /** How long a submit is retried; shorter, because no job exists yet and a user may be waiting. */
  submitPatience: 10,
  /** The delay after the first failure; it doubles with each further one. */
  firstBackoff: 0.5,
  /** The cap on the delay between retries. */
  longestBackoff: 15,
  /** The timeout of one request and its response; a long poll adds its `wait`. */
  requestTimeout: 30,
  /** Invalid responses in a row until a server that never sent a valid one is reported as not UMRGEN. */
  garbageTries: 4,
  /** Bytes per second; a download slower than this over `dripWindow` is aborted and resumed. */
  dripRate: 1024,
  /** The span over which a download's rate is measured. */
  dripWindow: 20,
  /** Attempts in a row without a new byte until a download fails. */
  downloadTries: 5,
  /** The largest image that is accepted, in bytes. */
  maxBytes: 256 * 1024 * 1024,
  /** Whether an image may be fetched from another origin than the server's (without the key). */
  followForeign: false,
};

/** In seconds unless stated otherwise. @typedef {typeof defaults} Options */

export const DEFAULTS = Object.freeze(defaults);

/** The names of a call's options besides these. */
export const CALL_NAMES = ["signal", "onEvent", ...Object.keys(defaults)];

/**
 * Return `options` with some values changed. Throws TypeError for an unknown name, UmrgenError for a bad number.
 * @param {Options} options
 * @param {Record<string, unknown>} changes
 * @param {readonly string[]} [others] other names that the call accepts
 * @returns {Options}
 */
export function withChanges(options, changes, others = []) {
  for (const name in changes) {
    if (!Object.hasOwn(DEFAULTS, name)) throw unknownOption(name, [...CALL_NAMES, ...others]);
  }
  const given = Object.entries(changes).filter(([, value]) => value !== undefined);
  for (const [name, value] of given) {
    // Also NaN, with which a deadline never passes.
    if (typeof value === "number" && !(value >= 0)) {
      throw new UmrgenError(`${name} must be a number of at least 0; got ${value}`, { code: "bad_option" });
    }
  }
  return { ...options, ...Object.fromEntries(given) };
}

/**
 * Return the error for an unknown option, which names the nearest known one.
 * @param {string} name
 * @param {readonly string[]} known
 */
export function unknownOption(name, known) {
  const [nearest] = [...known].sort((one, other) => distance(name, one) - distance(name, other));
  const hint = distance(name, nearest) <= Math.max(2, name.length / 3) ? `; did you mean ${nearest}?` : "";
  return new TypeError(`unknown option: ${quoted(name).slice(1, -1)}${hint}`);
}

/**
 * Return the number of edits between two names: letters that are added, removed, replaced or swapped; case is ignored.
 * @param {string} one
 * @param {string} other
 */
function distance(one, other) {
  const [a, b] = [one, other].map((name) => name.slice(0, 40).replaceAll("_", "").toLowerCase());
  const rows = Array.from({ length: a.length + 1 }, (_, row) => [row]);
  for (let column = 0; column <= b.length; column++) rows[0][column] = column;
  for (let row = 1; row <= a.length; row++) {
    for (let column = 1; column <= b.length; column++) {
      const replaced = rows[row - 1][column - 1] + (a[row - 1] === b[column - 1] ? 0 : 1);
      rows[row][column] = Math.min(rows[row - 1][column] + 1, rows[row][column - 1] + 1, replaced);
      const swapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1];
      if (swapped) rows[row][column] = Math.min(rows[row][column], rows[row - 2][column - 2] + 1);
    }
  }
  return rows[a.length][b.length];
}
