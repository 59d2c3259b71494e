// A tile of the gallery.
import { UmrgenError } from "../src/index.js";
import { cloneElement, find, setIcon } from "./dom.js";
import { describeEnd, shortDate } from "./format.js";
import { makeDraggable } from "./image_drag.js";
import { imageUrlOf, thumbnailUrlOf } from "./image_urls.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry } from "./jobs.js" */

/**
 * Return the tile of a job that is over.
 * @param {Umrgen} umrgen
 * @param {JobEntry} entry
 */
export function newTile(umrgen, entry) {
  const tile = cloneElement("tile");
  const { prompt } = entry.request;
  tile.dataset.id = entry.id;
  tile.title = prompt;
  find(tile, ".tile-text").textContent = prompt;
  find(tile, ".tile-more").textContent = caption(entry);
  const image = find(tile, "img", HTMLImageElement);
  const address = thumbnailUrlOf(umrgen, entry);
  if (address) {
    image.addEventListener("error", () => reload(umrgen, tile, image, entry), { once: true });
    image.src = address;
    makeDraggable(tile, () => {
      const url = imageUrlOf(umrgen, entry);
      return url ? { entry, url } : null;
    });
  } else {
    image.remove();
    mark(tile, describeEnd(entry).title, entry.status.errorCode === "cancelled" ? "stopped" : "failed");
  }
  showFavorite(tile, entry);
  return tile;
}

/**
 * Show whether an image is a favorite.
 * @param {HTMLElement} tile
 * @param {JobEntry} entry
 */
export function showFavorite(tile, { status }) {
  const star = tile.querySelector(".tile-favorite");
  if (!status.raw.favorite) star?.remove();
  else if (!star) find(tile, ".tile-text").before(cloneElement("tile-favorite"));
}

/** Return the seed and the time, by which images of one prompt differ. @param {JobEntry} entry */
function caption({ status, createdAt }) {
  return [status.seed === null ? "" : `Seed ${status.seed}`, shortDate(createdAt)].filter(Boolean).join(" · ");
}

/**
 * Get a new URL after an error: the URL may have expired, or the image may have been deleted.
 * @param {Umrgen} umrgen
 * @param {HTMLElement} tile
 * @param {HTMLImageElement} image
 * @param {JobEntry} entry
 */
async function reload(umrgen, tile, image, entry) {
  const showDeleted = () => {
    image.hidden = true;
    mark(tile, "Deleted by the server", "image");
  };
  image.addEventListener("error", showDeleted, { once: true });
  try {
    entry.status = await umrgen.job(entry.id).status({ timeout: null, patience: Infinity });
    image.src = thumbnailUrlOf(umrgen, entry) ?? "";
  } catch (error) {
    if (!(error instanceof UmrgenError)) throw error;
    showDeleted();
  }
}

/**
 * Show a reason instead of an image.
 * @param {HTMLElement} tile
 * @param {string} text
 * @param {string} icon
 */
function mark(tile, text, icon) {
  const note = cloneElement("tile-failed");
  find(tile, ".tile-text").before(note);
  note.classList.toggle("neutral", icon !== "failed");
  setIcon(note, icon);
  find(note, ".tile-reason").textContent = text;
}
