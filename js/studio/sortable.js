// A list whose items are moved by dragging their `.move` button, or with the arrow keys on it.
import { find } from "./dom.js";
import { announce } from "./live_region.js";

const STEPS = /** @type {Record<string, number>} */ ({ ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 });

/**
 * Make the items of a list movable.
 * @param {HTMLElement} list
 * @param {() => void} onMove called after each change of the order
 */
export function makeSortable(list, onMove) {
  list.addEventListener("keydown", (event) => {
    const item = itemOf(event.target);
    const step = STEPS[event.key];
    if (!item || !step) return;
    event.preventDefault();
    const items = [...list.children];
    const place = items.indexOf(item) + step;
    if (place < 0 || place >= items.length) return;
    items[place][step < 0 ? "before" : "after"](item);
    find(item, ".move").focus();
    onMove();
    announce(`Moved to place ${place + 1} of ${items.length}.`);
  });
  list.addEventListener("pointerdown", (event) => {
    const item = itemOf(event.target);
    if (item && event.button === 0) drag(list, item, event, onMove);
  });
}

/**
 * Move an item with the pointer until it is released.
 * @param {HTMLElement} list
 * @param {Element} item
 * @param {PointerEvent} start
 * @param {() => void} onMove
 */
function drag(list, item, start, onMove) {
  const handle = find(item, ".move");
  const ended = new AbortController();
  const { signal } = ended;
  const before = [...list.children];
  handle.setPointerCapture(start.pointerId);
  item.classList.add("dragged");
  handle.addEventListener("pointermove", ({ clientX, clientY }) => {
    const other = document.elementFromPoint(clientX, clientY)?.closest("li");
    if (!other || other === item || other.parentElement !== list) return;
    const items = [...list.children];
    other[items.indexOf(other) < items.indexOf(item) ? "before" : "after"](item);
  }, { signal });
  for (const type of ["pointerup", "pointercancel"]) {
    handle.addEventListener(type, () => {
      ended.abort();
      item.classList.remove("dragged");
      if ([...list.children].some((other, index) => other !== before[index])) onMove();
    }, { signal });
  }
}

/** Return the item whose button this is. @param {EventTarget | null} target */
function itemOf(target) {
  return target instanceof Element && target.closest(".move") ? target.closest("li") : null;
}
