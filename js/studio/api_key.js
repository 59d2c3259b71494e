// The API key: stored for this tab only, and exchanged for a one-time link that the server has printed.
import { notUmrgen, pageCall } from "./page_calls.js";
import { store, stored } from "./storage.js";

const NAME = "umrgen-key";

export const key = {
  get() {
    return stored("sessionStorage", NAME);
  },
  /** @param {string} value */
  store(value) {
    store("sessionStorage", NAME, value);
  },
  remove() {
    store("sessionStorage", NAME, null);
  },
};

/** Return the ticket of a one-time link in the page's address, and remove it from the address and the history. */
export function ticketInAddress() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get("start");
  if (ticket) history.replaceState(null, "", location.pathname + location.search);
  return ticket;
}

/**
 * Exchange a ticket for an API key. Throws PageCallFailed.
 * @param {string} baseUrl
 * @param {string} ticket
 * @returns {Promise<string>}
 */
export async function exchange(baseUrl, ticket) {
  const headers = { "Content-Type": "application/json" };
  const init = { method: "POST", headers, body: JSON.stringify({ ticket }) };
  const { key: created } = await pageCall(`${baseUrl}/studio/session`, init);
  if (typeof created !== "string") throw notUmrgen(200);
  return created;
}
