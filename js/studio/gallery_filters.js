// `<um-gallery-filters>`: state, search, engine, size and dates of the gallery. Emits `filter` with the changes of the view.
import { cloneTemplate, element, emit, find } from "./dom.js";

/** @import { Features } from "./features.js" */
/** @import { JobEntry } from "./jobs.js" */
/** @import { View } from "./links.js" */

/** Milliseconds without a key press after which the search begins. */
const TYPING = 300;
const FIELDS = /** @type {const} */ (["engine", "size", "after", "before"]);

/** The shapes and sizes that can be chosen. @type {Record<string, (width: number, height: number) => boolean>} */
const SIZES = {
  square: (width, height) => width === height,
  landscape: (width, height) => width > height,
  portrait: (width, height) => width < height,
  large: (width, height) => width * height > 1.5e6,
};

/** The filters of the gallery. */
export class GalleryFilters extends HTMLElement {
  #timer = 0;

  connectedCallback() {
    this.append(cloneTemplate("gallery-filters"));
    const changed = (/** @type {Partial<View>} */ changes, typing = false) => emit(this, "filter", { changes, typing });
    find(this, ".filter").addEventListener("change", () => changed({ show: this.#state }));
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => changed({ q: this.#search.value.trim() }, true), TYPING);
    });
    for (const name of FIELDS) {
      this.#field(name).addEventListener("change", () => changed({ [name]: this.#field(name).value }));
    }
    const more = find(this, ".more", HTMLDetailsElement);
    more.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !more.open) return;
      more.open = false;
      find(more, "summary").focus();
    });
    document.addEventListener("pointerdown", ({ target }) => target instanceof Node && !more.contains(target) && (more.open = false));
    find(this, ".clear").addEventListener("click", () => {
      changed({ show: "", q: "", engine: "", size: "", after: "", before: "" });
    });
  }

  /**
   * Show the filters that the server supports.
   * @param {Features} features
   * @param {View} view
   */
  open(features, view) {
    find(this, ".search").hidden = !features.search;
    for (const name of ["engine", "after", "before"]) find(this, `[data-filter=${name}]`).hidden = !features.search;
    find(this, ".favorites").hidden = !features.favorites;
    this.show(view);
  }

  /** Show the values of a view. @param {View} view */
  show(view) {
    const radio = this.querySelector(`input[value="${CSS.escape(view.show)}"]`) ?? this.querySelector('input[value=""]');
    if (radio instanceof HTMLInputElement) radio.checked = true;
    if (this.#search.value.trim() !== view.q) this.#search.value = view.q;
    if (view.engine) this.addEngine(view.engine);
    for (const name of FIELDS) this.#field(name).value = view[name];
    const used = FIELDS.filter((name) => view[name]).length;
    find(this, ".more-count").textContent = used ? ` (${used})` : "";
    find(this, ".clear").hidden = !used && !view.q && !view.show;
  }

  /** Add an engine to the choice. @param {string} name */
  addEngine(name) {
    const select = this.#field("engine");
    if ([...select.children].some((option) => option instanceof HTMLOptionElement && option.value === name)) return;
    select.append(element("option", name));
  }

  // --- private ---

  get #state() {
    return find(this, "input:checked", HTMLInputElement).value;
  }

  get #search() {
    return find(this, "#search", HTMLInputElement);
  }

  /**
   * @param {string} name
   * @returns {HTMLInputElement | HTMLSelectElement}
   */
  #field(name) {
    return /** @type {any} */ (find(this, `#filter-${name}`));
  }
}

/**
 * Return whether a finished job belongs to a view, as far as the page can decide; the server has applied the search.
 * Cancelled jobs are among the failed ones only.
 * @param {JobEntry} entry
 * @param {View} view
 */
export function isInView({ request, status, createdAt }, { show, size, engine, after, before }) {
  if (!status.over) return false;
  if (show === "favorites" ? !status.raw.favorite : show ? status.state !== show : status.errorCode === "cancelled") return false;
  if (engine && status.engine !== engine) return false;
  if (size && !SIZES[size]?.(request.width, request.height)) return false;
  return !(after && createdAt < startOf(after)) && !(before && createdAt >= startOf(before, 1));
}

/**
 * Return the query of a view for the server's list of jobs.
 * @param {View} view
 * @param {Features} features
 */
export function queryOf({ show, q, engine, after, before }, features) {
  const favorite = show === "favorites";
  return {
    state: favorite || !show ? undefined : show,
    ...(features.favorites && favorite && { favorite }),
    ...(features.search && {
      search: q || undefined,
      engine: engine || undefined,
      after: after ? startOf(after) - 1 : undefined, // made later than this
      before: before ? startOf(before, 1) : undefined,
    }),
  };
}

/**
 * Return the start of a local day, in milliseconds since the epoch.
 * @param {string} date YYYY-MM-DD
 * @param {number} [later] days after it
 */
function startOf(date, later = 0) {
  const [year, month, day] = date.split("-").map(Number);
  return new Date(year, month - 1, day + later).getTime();
}
