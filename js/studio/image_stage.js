// `<um-image-stage>`: an image that can be zoomed to 100 % and moved. Emits `swipe` with -1 or 1, and `zoom`.
import { emit } from "./dom.js";
import { hasPointer } from "./image_drag.js";

/** Pixels of the shortest swipe. */
const SWIPE = 60;
/** Pixels that the pointer moves before a click becomes a drag. */
const DRAG = 4;

/** An image that can be zoomed. */
export class ImageStage extends HTMLElement {
  connectedCallback() {
    this.append(Object.assign(document.createElement("img"), { hidden: true }));
    this.addEventListener("pointerdown", (event) => this.#press(event));
  }

  get image() {
    return /** @type {HTMLImageElement} */ (this.querySelector("img"));
  }

  /** Whether the image is shown at 100 %. */
  get zoomed() {
    return this.classList.contains("zoomed");
  }

  set zoomed(zoomed) {
    this.classList.toggle("zoomed", zoomed);
    // Otherwise, dragging takes the file out of the browser.
    this.image.draggable = !zoomed && hasPointer();
    // A region that scrolls must be reachable with the keyboard.
    if (zoomed) this.tabIndex = 0;
    else this.removeAttribute("tabindex");
    emit(this, "zoom");
  }

  /** Zoom to 100 % around the centre, or back. */
  toggle() {
    this.#toggleAt(0.5, 0.5);
  }

  /**
   * @param {number} x the part of the image's width at the centre
   * @param {number} y
   */
  #toggleAt(x, y) {
    this.zoomed = !this.zoomed;
    this.scrollTo(x * this.scrollWidth - this.clientWidth / 2, y * this.scrollHeight - this.clientHeight / 2);
  }

  /** @param {PointerEvent} start */
  #press(start) {
    if (start.button !== 0 || this.image.hidden) return;
    const ended = new AbortController();
    const { signal } = ended;
    const [left, top] = [this.scrollLeft, this.scrollTop];
    const mouse = start.pointerType === "mouse";
    const moved = (/** @type {PointerEvent} */ { clientX, clientY }) => [clientX - start.clientX, clientY - start.clientY];
    if (mouse && this.zoomed) this.setPointerCapture(start.pointerId);
    // A finger moves a zoomed image by the browser's own scrolling.
    this.addEventListener("pointermove", (event) => {
      const [x, y] = moved(event);
      if (mouse && this.zoomed) this.scrollTo(left - x, top - y);
    }, { signal });
    this.addEventListener("pointercancel", () => ended.abort(), { signal });
    this.addEventListener("pointerup", (event) => {
      ended.abort();
      const [x, y] = moved(event);
      if (mouse && Math.hypot(x, y) < DRAG) this.#click(event);
      else if (!this.zoomed && Math.abs(x) > SWIPE && Math.abs(x) > 2 * Math.abs(y)) emit(this, "swipe", x < 0 ? 1 : -1);
    }, { signal });
  }

  /** @param {PointerEvent} event */
  #click({ clientX, clientY }) {
    const { left, top, width, height } = this.image.getBoundingClientRect();
    this.#toggleAt((clientX - left) / width, (clientY - top) / height);
  }
}
