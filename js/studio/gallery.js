// `<um-gallery>`: what is over, the newest first, page by page. Tells `look` with an entry, `idea` with a prompt.
import { UmrgenError } from "../src/index.js";
import { resolveOutput } from "../src/download.js";
import { copyOf, find, pieceOf, setIcon, tell } from "./dom.js";
import { ending, plain } from "./words.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Entry, Jobs } from "./jobs.js" */

const PAGE = 48;

const IDEAS = [
  "a lighthouse on a cliff at dusk, storm over the sea",
  "mountains at sunrise, mist in the valley",
  "a neon city at night in the rain",
];

/**
 * What stands where nothing is to be shown, by the filter.
 * @type {Record<"" | "completed" | "failed", [string, string?]>}
 */
const EMPTY = {
  "": ["Nothing here yet", "Describe a picture, or begin with one of these:"],
  completed: ["No pictures yet"],
  failed: ["Nothing has failed"],
};

export class Gallery extends HTMLElement {
  /** The tiles, the newest first. @type {{entry: Entry, tile: HTMLElement}[]} */
  #shown = [];
  /** @type {string | null} */
  #cursor = null;
  #loading = false;
  #round = 0;
  #opened = { umrgen: /** @type {Umrgen | null} */ (null), jobs: /** @type {Jobs | null} */ (null) };
  #sentinel = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.#more(), {
    rootMargin: "1200px",
  });

  connectedCallback() {
    this.append(copyOf("gallery"));
    find(this, ".older").addEventListener("click", () => this.#more());
    find(this, ".filter").addEventListener("change", () => this.#anew());
    find(this, ".ideas").append(...IDEAS.map((idea) => this.#idea(idea)));
  }

  /**
   * @param {Umrgen} umrgen
   * @param {Jobs} jobs
   */
  open(umrgen, jobs) {
    this.#opened = { umrgen, jobs };
    jobs.addEventListener("grown", () => this.#showEmpty());
    jobs.addEventListener("gone", () => this.#showEmpty());
    jobs.addEventListener("over", (event) => this.#take(/** @type {CustomEvent<Entry>} */ (event).detail));
    jobs.addEventListener("past", (event) => this.#take(/** @type {CustomEvent<Entry>} */ (event).detail));
    this.#anew();
  }

  /**
   * What is to the left (-1) or right (1) of an entry; to the right, older ones are fetched if need be.
   * @param {Entry} entry
   * @param {number} step
   */
  async beside(entry, step) {
    const place = this.#place(entry.id) + step;
    if (place >= this.#shown.length && this.#cursor) await this.#more();
    return this.#shown[place]?.entry;
  }

  /** @param {string} id */
  focusOn(id) {
    const { tile } = this.#shown[this.#place(id)] ?? {};
    if (tile) find(tile, "button").focus();
  }

  // --- inside ---

  /** @param {string} id */
  #place(id) {
    return this.#shown.findIndex(({ entry }) => entry.id === id);
  }

  get #filter() {
    return find(this, "input:checked", HTMLInputElement).value;
  }

  #anew() {
    this.#round++;
    this.#shown = [];
    this.#cursor = "";
    this.#loading = false;
    find(this, ".tiles").replaceChildren();
    find(this, ".empty").hidden = true;
    this.#more();
  }

  /** The next page, if there is one and none is on its way. */
  async #more() {
    const { umrgen, jobs } = this.#opened;
    if (!umrgen || !jobs || this.#loading || this.#cursor === null) return;
    this.#loading = true;
    const round = this.#round;
    const query = { state: this.#filter || undefined, limit: PAGE, cursor: this.#cursor || null };
    this.setAttribute("aria-busy", "true");
    try {
      const page = await umrgen.jobs({ ...query, timeout: null, submitPatience: Infinity });
      if (round !== this.#round) return;
      for (const status of page.jobs) jobs.learn(status);
      const known = page.jobs.map(({ jobId }) => jobs.get(jobId)).filter((entry) => entry !== undefined);
      this.#append(known);
      this.#cursor = page.nextCursor;
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      this.#note("The gallery cannot be shown", `${plain(error)}. ${error.next}`);
    } finally {
      if (round === this.#round) {
        this.#loading = false;
        this.setAttribute("aria-busy", "false");
      }
    }
    const older = find(this, ".older");
    older.hidden = !this.#cursor;
    // Observed anew each time: one that is still in sight after a page says nothing by itself.
    this.#sentinel.disconnect();
    if (this.#cursor) this.#sentinel.observe(older);
    this.#showEmpty();
  }

  /** @param {Entry[]} entries from an older page */
  #append(entries) {
    const fresh = entries.filter((entry) => this.#wants(entry) && this.#place(entry.id) < 0);
    const tiles = fresh.map((entry) => ({ entry, tile: this.#tile(entry) }));
    find(this, ".tiles").append(...tiles.map(({ tile }) => tile));
    this.#shown.push(...tiles);
  }

  /**
   * One that has just ended, or of which this page has just heard: where it belongs by its age.
   * @param {Entry} entry
   */
  #take(entry) {
    if (!this.#wants(entry) || this.#place(entry.id) >= 0) return;
    let place = this.#shown.findIndex((other) => other.entry.createdAt < entry.createdAt);
    // Older than all that is here: it will come with its page.
    if (place < 0 && this.#cursor !== null && (this.#shown.length || this.#loading)) return;
    if (place < 0) place = this.#shown.length;
    const tile = this.#tile(entry);
    find(this, ".tiles").insertBefore(tile, this.#shown[place]?.tile ?? null);
    this.#shown.splice(place, 0, { entry, tile });
    this.#showEmpty();
  }

  /** @param {Entry} entry */
  #wants({ status }) {
    return status.over && (!this.#filter || status.state === this.#filter);
  }

  /** @param {Entry} entry */
  #tile(entry) {
    const tile = pieceOf("tile");
    const { prompt } = entry.request;
    find(tile, ".tile-words").textContent = prompt;
    tile.title = prompt;
    find(tile, "button").addEventListener("click", () => tell(this, "look", entry));
    const image = find(tile, "img", HTMLImageElement);
    const address = imageAddress(this.#opened.umrgen, entry);
    if (address) {
      image.addEventListener("error", () => this.#lostImage(tile, image, entry), { once: true });
      image.src = address;
    } else {
      image.remove();
      const { title } = ending(entry);
      mark(tile, title, entry.status.errorCode === "cancelled" ? "stopped" : "failed");
    }
    return tile;
  }

  /**
   * An address may have ended, or the image with it: the server knows.
   * @param {HTMLElement} tile
   * @param {HTMLImageElement} image
   * @param {Entry} entry
   */
  async #lostImage(tile, image, entry) {
    const gone = () => {
      image.hidden = true;
      mark(tile, "Not kept any more", "image");
    };
    image.addEventListener("error", gone, { once: true });
    try {
      const fresh = await this.#opened.umrgen?.job(entry.id).status({ timeout: null, patience: Infinity });
      entry.status = fresh ?? entry.status;
      image.src = imageAddress(this.#opened.umrgen, entry) ?? "";
    } catch (error) {
      if (!(error instanceof UmrgenError)) throw error;
      gone();
    }
  }

  #showEmpty() {
    if (this.#shown.length || this.#loading || this.#cursor) {
      find(this, ".empty").hidden = true;
      return;
    }
    const filter = /** @type {keyof typeof EMPTY} */ (this.#filter);
    const first = filter === "" && !this.#opened.jobs?.pending.length;
    const [title, words] = filter === "" && !first ? ["The first is in the works"] : EMPTY[filter];
    this.#note(title, words);
    find(this, ".ideas").hidden = !first;
  }

  /**
   * @param {string} title
   * @param {string} [words]
   */
  #note(title, words = "") {
    find(this, ".empty-title").textContent = title;
    find(this, ".empty-words").textContent = words;
    find(this, ".ideas").hidden = true;
    find(this, ".empty").hidden = false;
  }

  /** @param {string} words */
  #idea(words) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: words });
    button.addEventListener("click", () => tell(this, "idea", words));
    item.append(button);
    return item;
  }
}

/**
 * Where an entry's image is, by the client's rule; null when it has none that may be shown.
 * @param {Umrgen | null} umrgen
 * @param {Entry} entry
 */
export function imageAddress(umrgen, { status }) {
  if (!umrgen || !status.imageUrl) return null;
  try {
    return resolveOutput(umrgen.baseUrl, status.imageUrl, false).url;
  } catch {
    return null;
  }
}

/**
 * @param {HTMLElement} tile
 * @param {string} words
 * @param {string} icon
 */
function mark(tile, words, icon) {
  const note = find(tile, ".tile-failed");
  note.hidden = false;
  note.classList.toggle("calm", icon !== "failed");
  setIcon(note, icon);
  find(tile, ".tile-reason").textContent = words;
}
