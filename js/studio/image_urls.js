// The URLs of a job's image and thumbnail.
import { resolveOutput } from "../src/download.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { JobEntry } from "./jobs.js" */

/**
 * Return the URL of an entry's image, by the client's rule; null without an image of this server.
 * @param {Umrgen | null} umrgen
 * @param {JobEntry} entry
 */
export function imageUrlOf(umrgen, { status }) {
  return resolvedUrl(umrgen, status.imageUrl);
}

/**
 * Return the URL of an entry's thumbnail; of its image, when the server makes no thumbnails.
 * @param {Umrgen | null} umrgen
 * @param {JobEntry} entry
 */
export function thumbnailUrlOf(umrgen, entry) {
  const url = entry.status.raw.results?.images?.[0]?.thumbnail_url;
  return (typeof url === "string" && resolvedUrl(umrgen, url)) || imageUrlOf(umrgen, entry);
}

/**
 * Return the URL of a path that this server has sent, by the client's rule; null for another server's.
 * @param {Umrgen | null} umrgen
 * @param {string | null} path
 */
export function resolvedUrl(umrgen, path) {
  if (!umrgen || !path) return null;
  try {
    return resolveOutput(umrgen.baseUrl, path, false).url;
  } catch {
    return null;
  }
}
