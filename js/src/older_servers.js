// What the first servers do not do, without a word: the seed is not reported, sizes are clamped, parameters ignored.

const IGNORED = Object.entries({
  webhook_url: "it sends no webhook",
  priority: "it has no priorities",
  idempotency_key: "a second submit makes a second job",
});

/**
 * Return the request with a seed, so that it can be reported, even for a server that does not report seeds. It is made
 * of the idempotency key, under which the request must be the same each time.
 * @param {Record<string, unknown>} request
 * @param {string} key
 */
export function withSeed(request, key) {
  if (request.seed !== undefined && request.seed !== -1) return request;
  let hash = 0x811c9dc5; // FNV-1a: a page over plain HTTP has no other
  for (const character of key) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193);
  return { ...request, seed: hash >>> 0 };
}

/**
 * Return what of a request the server will not do, by its response to the submit: one of ours has a status URL.
 * @param {Record<string, unknown>} receipt
 * @param {Record<string, unknown>} request
 */
export function receiptWarnings(receipt, request) {
  if ("status_url" in receipt) return [];
  const ignored = IGNORED.filter(([name]) => request[name]);
  return ignored.map(([name, why]) => `this server is an older one, which ignores ${name}: ${why}`);
}

/**
 * Return how the size of an image differs from the request.
 * @param {{width: number | null, height: number | null}} image
 * @param {Record<string, unknown>} request
 */
export function sizeWarnings({ width, height }, request) {
  const wanted = Object.entries({ width, height }).filter(([side]) => request[side] != null);
  if (width === null || height === null || wanted.every(([side, size]) => request[side] === size)) return [];
  const text = wanted.map(([side]) => `${side} ${request[side]}`).join(" and ");
  return [`the image has ${width} × ${height} pixels; the request was for ${text}`];
}
