// `<um-gallery>`: the finished jobs, newest first, by pages. Emits `view` with an entry, `idea` with a prompt.
import { UmrgenError } from "../src/index.js";
import { cloneTemplate, find, emit } from "./dom.js";
import { featuresOf } from "./features.js";
import { errorText } from "./format.js";
import { GalleryFilters, isInView, queryOf } from "./gallery_filters.js";
import { noteFor } from "./gallery_notes.js";
import { Selection } from "./selection.js";
import { SelectionBar } from "./selection_bar.js";
import { newTile, showFavorite } from "./tile.js";
import { TileGroups } from "./tile_groups.js";
import { listenToTiles } from "./tile_input.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry, Jobs } from "./jobs.js" */
/** @import { View } from "./links.js" */

const PAGE = 48;

const IDEAS = [
  "a lighthouse on a cliff at dusk, storm over the sea",
  "mountains at sunrise, mist in the valley",
  "a neon city at night in the rain",
];

/** @typedef {{umrgen: Umrgen, jobs: Jobs, features: import("./features.js").Features}} Opened */

/** The finished jobs. */
export class Gallery extends HTMLElement {
  /** The entries with a tile, newest first. @type {JobEntry[]} */
  #shown = [];
  /** @type {Map<string, HTMLElement>} */
  #tiles = new Map();
  /** @type {string | null} */
  #cursor = null;
  #groups = /** @type {TileGroups} */ (/** @type {unknown} */ (null));
  /** The page that is being loaded. @type {Promise<void> | null} */
  #loading = null;
  /** Why the last page could not be loaded. @type {UmrgenError | null} */
  #failure = null;
  #generation = 0;
  /** @type {Opened | null} */
  #opened = null;
  #view = /** @type {View} */ ({});
  #selection = new Selection();
  #sentinel = new IntersectionObserver((entries) => entries.at(-1)?.isIntersecting && this.#loadMore(), { // the last counts
    rootMargin: "1200px",
  });

  connectedCallback() {
    this.append(cloneTemplate("gallery"));
    this.#groups = new TileGroups(find(this, ".tiles"));
    find(this, ".older").addEventListener("click", () => this.#loadMore());
    find(this, ".select").addEventListener("click", () => (this.#selection.active ? this.#selection.end() : this.#selection.start()));
    find(this, ".ideas").append(...IDEAS.map((idea) => this.#idea(idea)));
    listenToTiles(find(this, ".tiles"), this.#selection, {
      all: () => this.#shown,
      view: (entry) => emit(this, "view", entry),
    });
    this.#selection.addEventListener("change", () => this.#showSelection());
  }

  /**
   * Show the jobs of a server.
   * @param {Umrgen} umrgen
   * @param {Jobs} jobs
   * @param {View} view
   * @param {Record<string, any>} capabilities
   */
  open(umrgen, jobs, view, capabilities) {
    const features = featuresOf(capabilities);
    this.#opened = { umrgen, jobs, features };
    this.#filters.open(features, view);
    find(this, "um-selection-bar", SelectionBar).open(features, this.#selection, () => this.#shown);
    jobs.addEventListener("added", () => this.#showEmpty());
    jobs.addEventListener("removed", (event) => this.#remove(/** @type {CustomEvent<JobEntry>} */ (event).detail));
    for (const type of ["finished", "addedFinished"]) {
      jobs.addEventListener(type, (event) => this.#insert(/** @type {CustomEvent<JobEntry>} */ (event).detail));
    }
    this.#view = view;
    this.#reload();
  }

  get selection() {
    return this.#selection;
  }

  /** Show the filters of a view. @param {View} view */
  show(view) {
    const filters = (/** @type {View} */ given) => JSON.stringify({ ...given, job: "" });
    const changed = filters(view) !== filters(this.#view);
    this.#view = view;
    if (!changed) return;
    this.#filters.show(view);
    this.#reload();
  }

  /**
   * Return the entry to the left (-1) or right (1) of another; older ones are loaded when necessary.
   * @param {JobEntry} entry
   * @param {number} step
   */
  async adjacent(entry, step) {
    const index = this.#shown.indexOf(entry) + step;
    // An entry of a link may be older than the loaded pages.
    if (index === step - 1) return undefined;
    if (index >= this.#shown.length && this.#cursor) await this.#loadMore();
    return this.#shown[index];
  }

  /** Focus the tile of a job. @param {string} id */
  focusOn(id) {
    const tile = this.#tiles.get(id);
    if (tile) find(tile, "button").focus();
  }

  /** Show whether a job is a favorite. @param {JobEntry} entry */
  updateFavorite(entry) {
    const tile = this.#tiles.get(entry.id);
    if (tile) showFavorite(tile, entry);
    if (!isInView(entry, this.#view)) this.#remove(entry);
  }

  /**
   * Show a note instead of tiles.
   * @param {string} title
   * @param {string} [text]
   */
  note(title, text = "") {
    find(this, ".empty-title").textContent = title;
    find(this, ".empty-text").textContent = text;
    find(this, ".ideas").hidden = true;
    find(this, ".empty").hidden = false;
  }

  // --- private ---

  get #filters() {
    return find(this, "um-gallery-filters", GalleryFilters);
  }

  #reload() {
    this.#generation++;
    this.#shown = [];
    this.#tiles.clear();
    this.#cursor = "";
    this.#loading = null;
    this.#groups.clear();
    find(this, ".empty").hidden = find(this, ".older").hidden = true;
    this.#selection.end();
    this.#loadMore();
  }

  /** Load the next page, or wait for the one that is being loaded; nothing after the last one. */
  async #loadMore() {
    if (!this.#opened || this.#cursor === null) return;
    await (this.#loading ??= this.#loadPage(this.#opened));
  }

  /** @param {Opened} opened */
  async #loadPage({ umrgen, jobs, features }) {
    const generation = this.#generation;
    const isCurrent = () => generation === this.#generation;
    const query = { ...queryOf(this.#view, features), limit: PAGE, cursor: this.#cursor || null };
    this.#failure = null;
    this.#sentinel.disconnect();
    this.setAttribute("aria-busy", "true");
    try {
      const page = await umrgen.jobs({ ...query, timeout: null, submitPatience: Infinity });
      if (!isCurrent()) return;
      for (const status of page.jobs) jobs.update(status);
      const entries = page.jobs.map(({ jobId }) => jobs.get(jobId)).filter((entry) => entry !== undefined);
      this.#append(entries);
      this.#cursor = page.nextCursor;
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      if (isCurrent()) this.#failure = error;
    } finally {
      if (isCurrent()) {
        this.#loading = null;
        this.setAttribute("aria-busy", "false");
      }
    }
    if (isCurrent()) this.#showEnd();
  }

  /** Show the end of the list: the button for older jobs, or the error of the last call. */
  #showEnd() {
    const older = find(this, ".older");
    older.textContent = this.#failure ? "Try again" : "Show older ones";
    older.hidden = !this.#cursor && !this.#failure;
    // Observe again after each page: an element that stays visible causes no new event. After an error, only a click
    // loads the page again.
    if (this.#cursor && !this.#failure) this.#sentinel.observe(older);
    this.#showEmpty();
  }

  /** @param {JobEntry[]} entries from an older page */
  #append(entries) {
    const fresh = entries.filter((entry) => isInView(entry, this.#view) && !this.#tiles.has(entry.id));
    this.#shown.push(...fresh);
    this.#groups.append(fresh.map((entry) => this.#tile(entry)));
  }

  /**
   * Insert an entry that has just finished, or that was not known, by its age.
   * @param {JobEntry} entry
   */
  #insert(entry) {
    // With a search, only the server knows which jobs belong to it.
    if (this.#view.q || !isInView(entry, this.#view) || this.#tiles.has(entry.id)) return this.#showEmpty();
    let index = this.#shown.findIndex((other) => other.createdAt < entry.createdAt);
    // It is older than the loaded pages, and will be loaded with its page.
    if (index < 0 && this.#cursor !== null && (this.#shown.length || this.#loading)) return;
    if (index < 0) index = this.#shown.length;
    this.#groups.insert(this.#tile(entry), index);
    this.#shown.splice(index, 0, entry);
    this.#showEmpty();
  }

  /** @param {JobEntry} entry that was deleted, or no longer belongs to the view */
  #remove(entry) {
    const index = this.#shown.indexOf(entry);
    if (index >= 0) this.#shown.splice(index, 1);
    const tile = this.#tiles.get(entry.id);
    if (tile) this.#groups.remove(tile);
    this.#tiles.delete(entry.id);
    this.#selection.remove(entry.id);
    this.#showEmpty();
  }

  /** @param {JobEntry} entry */
  #tile(entry) {
    const tile = newTile(/** @type {Opened} */ (this.#opened).umrgen, entry);
    this.#tiles.set(entry.id, tile);
    if (entry.status.engine) this.#filters.addEngine(entry.status.engine);
    if (this.#selection.active) find(tile, "button").setAttribute("aria-pressed", "false");
    return tile;
  }

  #showSelection() {
    const { active } = this.#selection;
    this.classList.toggle("selecting", active);
    find(this, ".select").textContent = active ? "Done" : "Select";
    for (const [id, tile] of this.#tiles) {
      const button = find(tile, "button");
      if (active) button.setAttribute("aria-pressed", String(this.#selection.has(id)));
      else button.removeAttribute("aria-pressed");
    }
  }

  #showEmpty() {
    find(this, ".select").hidden = !this.#shown.length;
    if (this.#failure) return this.note("The gallery cannot be loaded", `${errorText(this.#failure)}. ${this.#failure.next}`);
    if (this.#shown.length || this.#loading || this.#cursor) {
      find(this, ".empty").hidden = true;
      return;
    }
    const { title, text, first } = noteFor(this.#view, !!this.#opened?.jobs.pending.length);
    this.note(title, text);
    find(this, ".ideas").hidden = !first;
  }

  /** @param {string} prompt */
  #idea(prompt) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: prompt });
    button.addEventListener("click", () => emit(this, "idea", prompt));
    item.append(button);
    return item;
  }
}
