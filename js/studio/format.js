// Texts for values, states and errors.

/** @import { JobEntry } from "./jobs.js" */

/** Return a rounded duration. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 1) return "1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}

/** Return a measured duration. @param {number} seconds */
export function exactDuration(seconds) {
  return seconds < 10 ? `${seconds.toFixed(1)} s` : duration(seconds);
}

/** Return a date and time. @param {number} milliseconds since the epoch */
export function date(milliseconds) {
  return new Date(milliseconds).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

// Made once: a tile of the gallery needs them, and to make one takes longer than to use it.
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** Return the time of today, or the date and time. @param {number} milliseconds since the epoch */
export function shortDate(milliseconds) {
  const time = new Date(milliseconds);
  const isToday = time.toDateString() === new Date().toDateString();
  return isToday ? CLOCK.format(time) : `${DAY.format(time)}, ${CLOCK.format(time)}`;
}

/** Return an ordinal number. @param {number} position */
function ordinal(position) {
  const suffixes = { one: "st", two: "nd", few: "rd", other: "th" };
  const rule = new Intl.PluralRules("en", { type: "ordinal" }).select(position);
  return position + suffixes[/** @type {keyof typeof suffixes} */ (rule)];
}

/**
 * Return the state of a pending job.
 * @param {JobEntry} entry
 */
export function describeState({ status, cancelling, problem }) {
  if (problem) return problem;
  if (cancelling) return "Cancelling…";
  const { state, queuePosition, etaSeconds, step, totalSteps } = status;
  const left = etaSeconds === null ? "" : ` · about ${duration(etaSeconds)} left`;
  if (state === "running") return step ? `Step ${step} of ${totalSteps}${left}` : `Starting${left}`;
  if (queuePosition === null) return "Waiting";
  return `${queuePosition === 1 ? "Next" : `${ordinal(queuePosition)} in the queue`}${left}`;
}

/** The title and the advice for a failed job, by its code. @type {Record<string, [string, string]>} */
const FAILURES = {
  cancelled: ["Cancelled", "You can draw it again at any time."],
  out_of_memory: ["This image needs more memory than the server has", "Try again with a smaller size, or fewer references."],
  unsupported_request: ["The engine could not draw this", "It has no such model or feature: change the settings."],
  engine_failed: ["The engine could not draw this", "Try again with another size, fewer steps or another prompt."],
  engine_crashed: ["The engine crashed", "It was restarted. If it crashes again, check the log of the server."],
  engine_stalled: ["The engine stalled", "It was restarted. If it stalls again, try fewer steps or a smaller size."],
  storage_failed: ["The image could not be stored", "The disk of the server may be full. Free some space, then try again."],
  interrupted: ["Interrupted too often", "The server was restarted several times during the drawing. Try again."],
};

/**
 * Return the texts for a failed job.
 * @param {JobEntry} entry
 * @returns {{title: string, reason: string, remedy: string}}
 */
export function describeEnd({ status: { error, errorCode } }) {
  const [title, remedy] = FAILURES[errorCode ?? ""] ?? ["Failed", "Change the request according to the reason, and try again."];
  const reason = errorCode === "cancelled" ? "" : (error ?? "");
  return { title, reason, remedy };
}

/**
 * Return an error's message for the user, without the HTTP status.
 * @param {Error} error
 */
export function errorText(error) {
  return sentence(error.message.replace(/ \(HTTP \d+\)$/, ""));
}

/** Return a text with a capital letter and without a full stop. @param {string} text */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1).replace(/\.$/, "");
}
