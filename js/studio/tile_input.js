// Clicks and long presses on the tiles of the gallery.

/** @import { JobEntry } from "./jobs.js" */
/** @import { Selection } from "./selection.js" */

/** Milliseconds of a long press. */
const LONG_PRESS = 500;
/** Pixels by which a finger may move in a long press. */
const TOLERANCE = 10;
/** Pixels from the corner of a tile to the end of the mark of its selection, which a mouse shows. */
const CHECK = 40;

/**
 * Handle the input on the tiles in a list.
 * @param {HTMLElement} list
 * @param {Selection} selection
 * @param {{all: () => JobEntry[], view: (entry: JobEntry) => void}} gallery
 */
export function listenToTiles(list, selection, { all, view }) {
  const entryOf = (/** @type {EventTarget | null} */ target) => {
    const id = target instanceof Element && target.closest(".tile")?.getAttribute("data-id");
    return id ? all().find((entry) => entry.id === id) : undefined;
  };
  let pressed = false;
  list.addEventListener("click", (event) => {
    const entry = entryOf(event.target);
    if (!entry || pressed) return void (pressed = false); // a long press ends with a click
    if (event.shiftKey) selection.extend(all(), entry);
    else if (selection.active || isOnCheck(event) || event.ctrlKey || event.metaKey) selection.toggle(entry);
    else view(entry);
  });
  list.addEventListener("pointerdown", (start) => {
    const entry = entryOf(start.target);
    pressed = false;
    if (!entry || start.pointerType === "mouse") return;
    const ended = new AbortController();
    const timer = setTimeout(() => {
      pressed = true;
      ended.abort();
      selection.toggle(entry);
    }, LONG_PRESS);
    const end = () => {
      clearTimeout(timer);
      ended.abort();
    };
    const { signal } = ended;
    for (const type of ["pointerup", "pointercancel", "pointerleave"]) list.addEventListener(type, end, { signal });
    list.addEventListener("pointermove", ({ clientX, clientY }) => {
      if (Math.hypot(clientX - start.clientX, clientY - start.clientY) > TOLERANCE) end();
    }, { signal });
  });
  // A long press opens the browser's menu for the image.
  list.addEventListener("contextmenu", (event) => {
    if (event instanceof PointerEvent && event.pointerType === "touch") event.preventDefault();
  });
}

/** Return whether a mouse has clicked on the mark of a tile. @param {MouseEvent} event */
function isOnCheck(event) {
  if (!(event instanceof PointerEvent) || event.pointerType !== "mouse" || !(event.target instanceof Element)) return false;
  const tile = event.target.closest(".tile-open")?.getBoundingClientRect();
  return !!tile && event.clientX - tile.left < CHECK && event.clientY - tile.top < CHECK;
}
