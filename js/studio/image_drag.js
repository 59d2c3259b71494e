// Dragging an image: to the reference images of this page, or out of the browser as a file.
import { fileName } from "./image_download.js";

/** @import { JobEntry } from "./jobs.js" */

/** The type of a dragged job in a DataTransfer. */
export const JOB_TYPE = "application/x-umrgen-job";

/** Whether there is a mouse: on touch screens, a drag would end a long press. */
export const hasPointer = () => matchMedia("(any-pointer: fine)").matches;

/**
 * Make an image draggable as the file of its job.
 * @param {HTMLElement} image
 * @param {() => {entry: JobEntry, url: string} | null} source
 */
export function makeDraggable(image, source) {
  image.draggable = hasPointer();
  image.addEventListener("dragstart", (event) => {
    const dragged = source();
    const transfer = event.dataTransfer;
    if (!dragged || !transfer) return;
    const { entry, url } = dragged;
    transfer.setData(JOB_TYPE, entry.id);
    transfer.setData("text/uri-list", url);
    // Chromium saves the file under this name; other browsers use the address.
    transfer.setData("DownloadURL", `image/png:${fileName(entry)}:${url}`);
    transfer.effectAllowed = "copy";
  });
}
