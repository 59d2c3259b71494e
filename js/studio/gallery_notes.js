// The notes of an empty gallery.

/** @import { View } from "./links.js" */

/**
 * Return the note for a view without tiles; `first`: whether there is no job at all.
 * @param {View} view
 * @param {boolean} drawing whether jobs are pending
 * @returns {{title: string, text?: string, first?: boolean}}
 */
export function noteFor({ show, q, engine, size, after, before }, drawing) {
  if (q || engine || size || after || before) return { title: "Nothing found", text: "Change the search or the filters." };
  if (show === "completed") return { title: "No images yet" };
  if (show === "failed") return { title: "No failed jobs" };
  if (show === "favorites") return { title: "No favorites yet", text: "Open an image and choose Favorite: it is kept until you delete it." };
  if (drawing) return { title: "The first image is being drawn" };
  return { title: "No images yet", text: "Enter a prompt, or start with one of these:", first: true };
}
