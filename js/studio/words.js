// How things are put into words.

/** @import { Entry } from "./jobs.js" */

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 1) return "a moment";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}

/** @param {number} seconds that have been measured */
export function precise(seconds) {
  return seconds < 10 ? `${seconds.toFixed(1)} s` : duration(seconds);
}

/** @param {number} milliseconds since the epoch */
export function date(milliseconds) {
  return new Date(milliseconds).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** @param {number} place in the queue, from 1 */
function ordinal(place) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  const rule = new Intl.PluralRules("en", { type: "ordinal" }).select(place);
  return place + ending[/** @type {keyof typeof ending} */ (rule)];
}

/**
 * Where a job stands that is not over.
 * @param {Entry} entry
 */
export function standing({ status, cancelling, trouble }) {
  if (trouble) return trouble;
  if (cancelling) return "Cancelling…";
  const { state, queuePosition, etaSeconds, step, totalSteps } = status;
  const left = etaSeconds === null ? "" : ` · about ${duration(etaSeconds)} left`;
  if (state === "running") return step ? `Step ${step} of ${totalSteps}${left}` : `Beginning${left}`;
  if (queuePosition === null) return "Waiting";
  return `${queuePosition === 1 ? "Next" : `${ordinal(queuePosition)} in line`}${left}`;
}

/** What ended a job that failed, and what to do now, by its code. @type {Record<string, [string, string]>} */
const ENDS = {
  cancelled: ["Cancelled", "Nothing is wrong with it. It can be drawn again whenever you like."],
  engine_failed: ["The engine could not draw this", "Try again with another size, fewer steps or other words."],
  engine_crashed: ["The engine crashed", "It was started again. If it ends the same way, look at the server's log."],
  engine_stalled: ["The engine hung", "It was replaced. If it ends the same way, try fewer steps or a smaller size."],
  storage_failed: ["The image could not be stored", "The server's disk may be full. Make room, then try again."],
  interrupted: ["Interrupted too often", "The server was restarted again and again while it was drawn. Try again."],
};

/**
 * @param {Entry} entry
 * @returns {{title: string, reason: string, remedy: string}}
 */
export function ending({ status: { error, errorCode } }) {
  const [title, remedy] = ENDS[errorCode ?? ""] ?? ["It failed", "Change what the reason names, and try again."];
  const reason = errorCode === "cancelled" ? "" : (error ?? "");
  return { title, reason, remedy };
}

/**
 * An error's message as a person should read it: without the protocol's numbers.
 * @param {Error} error
 */
export function plain(error) {
  return sentence(error.message.replace(/ \(HTTP \d+\)$/, ""));
}

/** With a capital, and without a full stop. @param {string} words */
export function sentence(words) {
  return words.charAt(0).toUpperCase() + words.slice(1).replace(/\.$/, "");
}
