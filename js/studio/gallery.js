// `<um-gallery>`: the finished jobs, newest first, by pages. Emits `view` with an entry, `idea` with a prompt.
import { UmrgenError } from "../src/index.js";
import { resolveOutput } from "../src/download.js";
import { cloneTemplate, find, cloneElement, setIcon, emit } from "./dom.js";
import { describeEnd, errorText } from "./format.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry, Jobs } from "./jobs.js" */

const PAGE = 48;

const IDEAS = [
  "a lighthouse on a cliff at dusk, storm over the sea",
  "mountains at sunrise, mist in the valley",
  "a neon city at night in the rain",
];

/**
 * The note of an empty gallery, by the filter.
 * @type {Record<"" | "completed" | "failed", [string, string?]>}
 */
const EMPTY = {
  "": ["No images yet", "Enter a prompt, or start with one of these:"],
  completed: ["No images yet"],
  failed: ["No failed jobs"],
};

/** The finished jobs. */
export class Gallery extends HTMLElement {
  /** The tiles, newest first. @type {{entry: JobEntry, tile: HTMLElement}[]} */
  #shown = [];
  /** @type {string | null} */
  #cursor = null;
  #loading = false;
  #generation = 0;
  #opened = { umrgen: /** @type {Umrgen | null} */ (null), jobs: /** @type {Jobs | null} */ (null) };
  #sentinel = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.#loadMore(), {
    rootMargin: "1200px",
  });

  connectedCallback() {
    this.append(cloneTemplate("gallery"));
    find(this, ".older").addEventListener("click", () => this.#loadMore());
    find(this, ".filter").addEventListener("change", () => this.#reload());
    find(this, ".ideas").append(...IDEAS.map((idea) => this.#idea(idea)));
  }

  /**
   * Show the jobs of a server.
   * @param {Umrgen} umrgen
   * @param {Jobs} jobs
   */
  open(umrgen, jobs) {
    this.#opened = { umrgen, jobs };
    jobs.addEventListener("added", () => this.#showEmpty());
    jobs.addEventListener("removed", () => this.#showEmpty());
    jobs.addEventListener("finished", (event) => this.#insert(/** @type {CustomEvent<JobEntry>} */ (event).detail));
    jobs.addEventListener("addedFinished", (event) => this.#insert(/** @type {CustomEvent<JobEntry>} */ (event).detail));
    this.#reload();
  }

  /**
   * Return the entry to the left (-1) or right (1) of another; older ones are loaded when necessary.
   * @param {JobEntry} entry
   * @param {number} step
   */
  async adjacent(entry, step) {
    const index = this.#indexOf(entry.id) + step;
    if (index >= this.#shown.length && this.#cursor) await this.#loadMore();
    return this.#shown[index]?.entry;
  }

  /** Focus the tile of a job. @param {string} id */
  focusOn(id) {
    const { tile } = this.#shown[this.#indexOf(id)] ?? {};
    if (tile) find(tile, "button").focus();
  }

  // --- private ---

  /** @param {string} id */
  #indexOf(id) {
    return this.#shown.findIndex(({ entry }) => entry.id === id);
  }

  get #filter() {
    return find(this, "input:checked", HTMLInputElement).value;
  }

  #reload() {
    this.#generation++;
    this.#shown = [];
    this.#cursor = "";
    this.#loading = false;
    find(this, ".tiles").replaceChildren();
    find(this, ".empty").hidden = true;
    this.#loadMore();
  }

  /** Load the next page, unless it was the last one or a page is being loaded. */
  async #loadMore() {
    const { umrgen, jobs } = this.#opened;
    if (!umrgen || !jobs || this.#loading || this.#cursor === null) return;
    this.#loading = true;
    const generation = this.#generation;
    const query = { state: this.#filter || undefined, limit: PAGE, cursor: this.#cursor || null };
    this.setAttribute("aria-busy", "true");
    try {
      const page = await umrgen.jobs({ ...query, timeout: null, submitPatience: Infinity });
      if (generation !== this.#generation) return;
      for (const status of page.jobs) jobs.update(status);
      const entries = page.jobs.map(({ jobId }) => jobs.get(jobId)).filter((entry) => entry !== undefined);
      this.#append(entries);
      this.#cursor = page.nextCursor;
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      this.#note("The gallery cannot be loaded", `${errorText(error)}. ${error.next}`);
    } finally {
      if (generation === this.#generation) {
        this.#loading = false;
        this.setAttribute("aria-busy", "false");
      }
    }
    const older = find(this, ".older");
    older.hidden = !this.#cursor;
    // Observe again after each page: an element that stays visible causes no new event.
    this.#sentinel.disconnect();
    if (this.#cursor) this.#sentinel.observe(older);
    this.#showEmpty();
  }

  /** @param {JobEntry[]} entries from an older page */
  #append(entries) {
    const fresh = entries.filter((entry) => this.#matches(entry) && this.#indexOf(entry.id) < 0);
    const tiles = fresh.map((entry) => ({ entry, tile: this.#tile(entry) }));
    find(this, ".tiles").append(...tiles.map(({ tile }) => tile));
    this.#shown.push(...tiles);
  }

  /**
   * Insert an entry that has just finished, or that was not known, by its age.
   * @param {JobEntry} entry
   */
  #insert(entry) {
    if (!this.#matches(entry) || this.#indexOf(entry.id) >= 0) return;
    let index = this.#shown.findIndex((other) => other.entry.createdAt < entry.createdAt);
    // It is older than the loaded pages, and will be loaded with its page.
    if (index < 0 && this.#cursor !== null && (this.#shown.length || this.#loading)) return;
    if (index < 0) index = this.#shown.length;
    const tile = this.#tile(entry);
    find(this, ".tiles").insertBefore(tile, this.#shown[index]?.tile ?? null);
    this.#shown.splice(index, 0, { entry, tile });
    this.#showEmpty();
  }

  /** @param {JobEntry} entry */
  #matches({ status }) {
    return status.over && (!this.#filter || status.state === this.#filter);
  }

  /** @param {JobEntry} entry */
  #tile(entry) {
    const tile = cloneElement("tile");
    const { prompt } = entry.request;
    find(tile, ".tile-text").textContent = prompt;
    tile.title = prompt;
    find(tile, "button").addEventListener("click", () => emit(this, "view", entry));
    const image = find(tile, "img", HTMLImageElement);
    const address = imageUrlOf(this.#opened.umrgen, entry);
    if (address) {
      image.addEventListener("error", () => this.#reloadImage(tile, image, entry), { once: true });
      image.src = address;
    } else {
      image.remove();
      const { title } = describeEnd(entry);
      mark(tile, title, entry.status.errorCode === "cancelled" ? "stopped" : "failed");
    }
    return tile;
  }

  /**
   * Get a new URL after an error: the URL may have expired, or the image may have been deleted.
   * @param {HTMLElement} tile
   * @param {HTMLImageElement} image
   * @param {JobEntry} entry
   */
  async #reloadImage(tile, image, entry) {
    const showDeleted = () => {
      image.hidden = true;
      mark(tile, "Deleted by the server", "image");
    };
    image.addEventListener("error", showDeleted, { once: true });
    try {
      const fresh = await this.#opened.umrgen?.job(entry.id).status({ timeout: null, patience: Infinity });
      entry.status = fresh ?? entry.status;
      image.src = imageUrlOf(this.#opened.umrgen, entry) ?? "";
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      showDeleted();
    }
  }

  #showEmpty() {
    if (this.#shown.length || this.#loading || this.#cursor) {
      find(this, ".empty").hidden = true;
      return;
    }
    const filter = /** @type {keyof typeof EMPTY} */ (this.#filter);
    const first = filter === "" && !this.#opened.jobs?.pending.length;
    const [title, text] = filter === "" && !first ? ["The first image is being drawn"] : EMPTY[filter];
    this.#note(title, text);
    find(this, ".ideas").hidden = !first;
  }

  /**
   * Show a note instead of tiles.
   * @param {string} title
   * @param {string} [text]
   */
  #note(title, text = "") {
    find(this, ".empty-title").textContent = title;
    find(this, ".empty-text").textContent = text;
    find(this, ".ideas").hidden = true;
    find(this, ".empty").hidden = false;
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

/**
 * Return the URL of an entry's image, by the client's rule; null without an image of this server.
 * @param {Umrgen | null} umrgen
 * @param {JobEntry} entry
 */
export function imageUrlOf(umrgen, { status }) {
  if (!umrgen || !status.imageUrl) return null;
  try {
    return resolveOutput(umrgen.baseUrl, status.imageUrl, false).url;
  } catch {
    return null;
  }
}

/**
 * Show a reason instead of an image.
 * @param {HTMLElement} tile
 * @param {string} text
 * @param {string} icon
 */
function mark(tile, text, icon) {
  const note = find(tile, ".tile-failed");
  note.hidden = false;
  note.classList.toggle("neutral", icon !== "failed");
  setIcon(note, icon);
  find(tile, ".tile-reason").textContent = text;
}
