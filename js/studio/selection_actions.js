// The actions for one or more jobs: download as a ZIP file, compare, favorite, delete.
import { UmrgenError } from "../src/index.js";
import { Compare } from "./compare.js";
import { confirmed } from "./confirm.js";
import { find } from "./dom.js";
import { errorText } from "./format.js";
import { SelectionBar } from "./selection_bar.js";
import { downloadZip } from "./zip_download.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { Gallery } from "./gallery.js" */
/** @import { JobEntry, Jobs } from "./jobs.js" */
/** @import { Viewer } from "./viewer.js" */

/** The most jobs that one call deletes (contract, section 2). */
const MAX_DELETED = 1000;

/**
 * Handle the actions of the selection bar and of the viewer.
 * @param {{umrgen: Umrgen, jobs: Jobs, gallery: Gallery, viewer: Viewer, handleError: (error: unknown, show: (error: UmrgenError) => void) => void}} parts
 */
export function connectSelection({ umrgen, jobs, gallery, viewer, handleError }) {
  const bar = find(gallery, "um-selection-bar", SelectionBar);
  const failed = (/** @type {UmrgenError} */ error) => bar.note(`${errorText(error)}. ${error.next}`);

  /** @type {Record<string, (entries: JobEntry[]) => unknown>} */
  const actions = {
    async zip(entries) {
      const images = entries.filter(({ status }) => status.imageUrl);
      const missing = await downloadZip(umrgen, images, (text) => bar.note(text));
      if (missing === null) return bar.note("");
      bar.note(missing ? `Saved without ${missing} that could not be downloaded.` : `Saved: ${images.length} images.`);
    },
    compare: ([one, other]) => find(document, "um-compare", Compare).show(one, other),
    async favorite(entries) {
      const images = entries.filter(({ status }) => status.imageUrl);
      const favorite = !images.every(({ status }) => status.raw.favorite);
      for (const entry of images) await setFavorite(entry, favorite);
      gallery.selection.end();
    },
    async delete(entries) {
      if (await remove(entries)) gallery.selection.end();
    },
  };
  gallery.addEventListener("selection", async (event) => {
    const { action, entries } = /** @type {CustomEvent} */ (event).detail;
    try {
      await actions[action](entries);
    } catch (error) {
      handleError(error, failed);
    }
  });
  viewer.addEventListener("favorite", async (event) => {
    const entry = /** @type {CustomEvent<JobEntry>} */ (event).detail;
    try {
      await setFavorite(entry, !entry.status.raw.favorite);
    } catch (error) {
      handleError(error, (failure) => viewer.showError(failure));
    }
  });
  viewer.addEventListener("delete", async (event) => {
    const entry = /** @type {CustomEvent<JobEntry>} */ (event).detail;
    try {
      const next = (await gallery.adjacent(entry, 1)) ?? (await gallery.adjacent(entry, -1));
      if (await remove([entry])) viewer.showNext(next);
    } catch (error) {
      handleError(error, (failure) => viewer.showError(failure));
    }
  });

  /**
   * @param {JobEntry} entry
   * @param {boolean} favorite
   */
  async function setFavorite(entry, favorite) {
    await umrgen.job(entry.id).favorite(favorite);
    entry.status = { ...entry.status, raw: { ...entry.status.raw, favorite } };
    gallery.updateFavorite(entry);
    viewer.update(entry);
  }

  /**
   * Delete jobs after a confirmation; return whether they were deleted.
   * @param {JobEntry[]} entries
   */
  async function remove(entries) {
    const favorites = entries.filter(({ status }) => status.raw.favorite).length;
    const title = entries.length === 1 ? "Delete this job and its image?" : `Delete ${entries.length} jobs and their images?`;
    const note = favorites ? `Favorites among them: ${favorites}. ` : "";
    if (!(await confirmed(title, `${note}This cannot be undone.`, "Delete"))) return false;
    for (let first = 0; first < entries.length; first += MAX_DELETED) {
      const ids = entries.slice(first, first + MAX_DELETED).map(({ id }) => id);
      await umrgen.deleteJobs(ids);
      for (const id of ids) jobs.remove(id);
    }
    return true;
  }
}
