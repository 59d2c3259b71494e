// `<um-size>`: ratios of about one megapixel that the engine supports, or a custom size.
import { cloneTemplate, find, cloneElement, emit } from "./dom.js";

/** @type {[name: string, width: number, height: number][]} */
const PRESETS = [
  ["Square", 1024, 1024],
  ["4 : 3", 1152, 896],
  ["3 : 2", 1216, 832],
  ["16 : 9", 1344, 768],
  ["3 : 4", 896, 1152],
  ["2 : 3", 832, 1216],
  ["9 : 16", 768, 1344],
];

/** The sizes in the capabilities. @typedef {{min: number, max: number, default: number, multiple_of: number}} Sizes */

/** The size of an image. */
export class SizePicker extends HTMLElement {
  connectedCallback() {
    this.append(cloneTemplate("size"));
    this.addEventListener("change", () => this.#showCustom());
    find(this, ".swap").addEventListener("click", () => {
      const { width, height } = this.value;
      [this.#width.valueAsNumber, this.#height.valueAsNumber] = [height, width];
      emit(this, "input");
    });
  }

  /** Show the sizes. @param {Sizes} sizes */
  open(sizes) {
    const fits = (/** @type {number} */ side) =>
      side >= sizes.min && side <= sizes.max && side % sizes.multiple_of === 0;
    const presets = PRESETS.filter(([, width, height]) => fits(width) && fits(height));
    find(this, ".presets").replaceChildren(
      ...presets.map(([name, width, height]) =>
        preset(name, `${width}x${height}`, `${width} × ${height}`, width, height),
      ),
      preset("Custom", "free", "any size", 1, 1),
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

  /** The chosen size; NaN for an invalid side. */
  get value() {
    return { width: this.#width.valueAsNumber, height: this.#height.valueAsNumber };
  }

  set value({ width, height }) {
    this.#width.valueAsNumber = width;
    this.#height.valueAsNumber = height;
    const preset = this.querySelector(`input[value="${width}x${height}"]`) ?? this.querySelector("input[value=free]");
    if (preset instanceof HTMLInputElement) preset.checked = true;
    this.#showCustom();
  }

  #showCustom() {
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
 * Return a choice with an icon of its shape.
 * @param {string} name
 * @param {string} value
 * @param {string} text
 * @param {number} width
 * @param {number} height
 */
function preset(name, value, text, width, height) {
  const label = cloneElement("preset");
  find(label, "input", HTMLInputElement).value = value;
  find(label, ".preset-name").textContent = name;
  find(label, ".preset-size").textContent = text;
  const longer = Math.max(width, height);
  const [shapeWidth, shapeHeight] = [width, height].map((side) => 17 * (side / longer));
  const shape = find(label, "rect", SVGElement);
  const sides = { x: 12 - shapeWidth / 2, y: 12 - shapeHeight / 2, width: shapeWidth, height: shapeHeight };
  for (const [side, length] of Object.entries(sides)) shape.setAttribute(side, length.toFixed(2));
  if (value === "free") shape.classList.add("dashed");
  return label;
}
