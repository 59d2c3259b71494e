// `<um-size>`: shapes to choose from, those that the engine can draw, or any size of one's own.
import { copyOf, find, pieceOf } from "./dom.js";

/** @type {[name: string, width: number, height: number][]} */
const PRESETS = [
  ["Square", 1024, 1024],
  ["Landscape", 1216, 832],
  ["Wide", 1344, 768],
  ["Portrait", 832, 1216],
  ["Tall", 768, 1344],
];

/** What a server can do. @typedef {{min: number, max: number, default: number, multiple_of: number}} Sizes */

export class SizePicker extends HTMLElement {
  connectedCallback() {
    this.append(copyOf("size"));
    this.addEventListener("change", () => this.#showFree());
  }

  /** @param {Sizes} sizes */
  open(sizes) {
    const fits = (/** @type {number} */ side) =>
      side >= sizes.min && side <= sizes.max && side % sizes.multiple_of === 0;
    const presets = PRESETS.filter(([, width, height]) => fits(width) && fits(height));
    find(this, ".presets").replaceChildren(
      ...presets.map(([name, width, height]) =>
        preset(name, `${width}x${height}`, `${width} × ${height}`, width, height),
      ),
      preset("Free", "free", "your own", 1, 1),
    );
    for (const input of [this.#width, this.#height]) {
      input.min = String(sizes.min);
      input.max = String(sizes.max);
      input.step = String(sizes.multiple_of);
    }
    this.value = { width: sizes.default, height: sizes.default };
  }

  get #width() {
    return find(this, "#width", HTMLInputElement);
  }

  get #height() {
    return find(this, "#height", HTMLInputElement);
  }

  /** What is chosen; NaN for a side that is no number. */
  get value() {
    return { width: this.#width.valueAsNumber, height: this.#height.valueAsNumber };
  }

  set value({ width, height }) {
    this.#width.valueAsNumber = width;
    this.#height.valueAsNumber = height;
    const known = this.querySelector(`input[value="${width}x${height}"]`) ?? this.querySelector("input[value=free]");
    if (known instanceof HTMLInputElement) known.checked = true;
    this.#showFree();
  }

  #showFree() {
    const chosen = this.querySelector("input[type=radio]:checked");
    if (!(chosen instanceof HTMLInputElement)) return;
    const free = chosen.value === "free";
    find(this, ".free").hidden = !free;
    if (free) return;
    const [width, height] = chosen.value.split("x").map(Number);
    this.#width.valueAsNumber = width;
    this.#height.valueAsNumber = height;
  }
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} words
 * @param {number} width
 * @param {number} height
 */
function preset(name, value, words, width, height) {
  const label = pieceOf("preset");
  find(label, "input", HTMLInputElement).value = value;
  find(label, ".preset-name").textContent = name;
  find(label, ".preset-size").textContent = words;
  const longer = Math.max(width, height);
  const [across, down] = [width, height].map((side) => 17 * (side / longer));
  const shape = find(label, "rect", SVGElement);
  const sides = { x: 12 - across / 2, y: 12 - down / 2, width: across, height: down };
  for (const [side, length] of Object.entries(sides)) shape.setAttribute(side, length.toFixed(2));
  if (value === "free") shape.classList.add("dashed");
  return label;
}
