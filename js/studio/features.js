// What this server supports, by its capabilities: controls for anything else are not shown.

/** @typedef {{search: boolean, favorites: boolean, deletion: boolean, verification: boolean, templates: boolean}} Features */

/**
 * Return the features of a server.
 * @param {Record<string, any>} capabilities
 * @returns {Features}
 */
export function featuresOf({ calls = [] }) {
  const has = (/** @type {string} */ call) => calls.includes(call);
  return { search: has("search"), favorites: has("favorites"), deletion: has("delete"), verification: has("verify"), templates: has("templates") };
}
