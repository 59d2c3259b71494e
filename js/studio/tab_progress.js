// The progress in the tab: its title and its icon.
import { find } from "./dom.js";

/** @import { Jobs } from "./jobs.js" */

const SIDE = 64;

/** Keep title and icon up to date. @param {Jobs} jobs */
export function showProgress(jobs) {
  const title = document.title;
  const icon = find(document, "link[rel=icon]", HTMLLinkElement);
  const plain = icon.href;
  let shown = -1;
  let done = 0;
  const update = () => {
    const { pending } = jobs;
    const part = pending.length ? progressOf(pending[0].status) : -1;
    document.title = titleOf(title, pending.length, part, done);
    if (part === shown) return; // drawing the icon costs more
    shown = part;
    icon.href = part < 0 ? plain : ring(part);
  };
  for (const type of ["added", "change", "removed"]) jobs.addEventListener(type, update);
  jobs.addEventListener("finished", () => {
    if (document.hidden) done++;
    update();
  });
  document.addEventListener("visibilitychange", () => {
    done = 0;
    update();
  });
}

/**
 * Return the percentage of a job, in steps of 5, so that the icon is seldom drawn.
 * @param {{step: number | null, totalSteps: number | null}} status
 */
function progressOf({ step, totalSteps }) {
  return step && totalSteps ? Math.round((20 * step) / totalSteps) * 5 : 0;
}

/**
 * @param {string} title
 * @param {number} pending
 * @param {number} part
 * @param {number} done jobs that ended while the tab was hidden
 */
function titleOf(title, pending, part, done) {
  if (pending) return `${part} %${pending > 1 ? ` · ${pending} jobs` : ""} · ${title}`;
  return done ? `✓ ${done} finished · ${title}` : title;
}

/** Return the URL of an icon: a ring that is closed at 100. @param {number} part */
function ring(part) {
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const top = -Math.PI / 2;
  context.lineWidth = 12;
  for (const [colour, end] of /** @type {[string, number][]} */ ([["#8d8679", 100], ["#d98a1c", part]])) {
    context.strokeStyle = colour;
    context.beginPath();
    context.arc(SIDE / 2, SIDE / 2, SIDE / 2 - 8, top, top + (2 * Math.PI * end) / 100);
    context.stroke();
  }
  return canvas.toDataURL();
}
