// Every number of the waiting: the same names (in camel case), meanings and defaults as the Python client's.

const defaults = {
  /** Everything together: submitting, waiting, backing off, downloading. null: no end. @type {number | null} */
  timeout: 600,
  /** Time a job may spend `queued`, of the time above. @type {number | null} */
  queueTimeout: null,
  /** How long to ask the server to hold a status call; below the idle limits of proxies. 0: never. */
  wait: 25,
  /** Whether a wait asks for every change on the way, to tell it, or for the end alone (fewer requests). */
  follow: false,
  /** Between two looks at a queued job, when the server says nothing else. */
  queuedInterval: 3,
  /** Between two looks at a running job, when the server says nothing else. */
  runningInterval: 2,
  /** The share by which the two intervals vary at random, so that clients do not march in step. */
  jitter: 0.1,
  /** The share of a server's estimate that passes before the first look: few jobs take less. */
  etaShare: 0.55,
  /** The longest sleep on an estimate: they are often wrong, and an image may be early. */
  etaInterval: 10,
  /** What is left of any delay a server asks for. */
  longestDelay: 60,
  /** Calls to a server that knows no other way than being asked again; older ones refuse the 61st. */
  requestsAMinute: 55,
  /** A job `running` for so long without a change is reported as stalled. */
  stallAfter: 60,
  /** Whether a stalled job is only reported, or ends the wait with JobStalled. @type {"report" | "raise"} */
  onStall: "report",
  /** How long status calls outlast an unreachable or failing server, since its last good answer. */
  patience: 300,
  /** How long a submit is tried again; nothing is at stake yet, and somebody may be watching. */
  submitPatience: 10,
  /** The delay after a first failure; it doubles with each further one. */
  firstBackoff: 0.5,
  /** The delay between failures grows no further than this. */
  longestBackoff: 15,
  /** One request and its answer; a held call has `wait` on top. */
  requestTimeout: 30,
  /** Answers in a row that make no sense, before a server never understood counts as not UMRGEN. */
  garbageTries: 4,
  /** Bytes per second; a download slower than this over `dripWindow` is broken off and resumed. */
  dripRate: 1024,
  /** The span over which a download's rate is judged. */
  dripWindow: 20,
  /** Times a download is taken up again without having got a byte further. */
  downloadTries: 5,
  /** The largest image that is accepted, in bytes. */
  maxBytes: 256 * 1024 * 1024,
  /** Whether an image may be fetched from another origin than the server's (without the key). */
  followForeign: false,
};

/** Seconds, unless it says otherwise. @typedef {typeof defaults} Options */

export const DEFAULTS = Object.freeze(defaults);

/**
 * `options` with `changes`. A name that is misspelt is an error, not a silence.
 * @param {Options} options
 * @param {Record<string, unknown>} changes
 * @returns {Options}
 */
export function withChanges(options, changes) {
  for (const name in changes) if (!Object.hasOwn(DEFAULTS, name)) throw new TypeError(`no such option: ${name}`);
  const given = Object.entries(changes).filter(([, value]) => value !== undefined);
  return { ...options, ...Object.fromEntries(given) };
}
