// The API key: stored for this tab only, and exchanged for a one-time link that the server has printed.

const NAME = "umrgen-key";

export const key = {
  get() {
    return sessionStorage.getItem(NAME);
  },
  /** @param {string} value */
  store(value) {
    sessionStorage.setItem(NAME, value);
  },
  remove() {
    sessionStorage.removeItem(NAME);
  },
};

/** Return the ticket of a one-time link in the page's address, and remove it from the address and the history. */
export function ticketInAddress() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get("start");
  if (ticket) history.replaceState(null, "", location.pathname + location.search);
  return ticket;
}

/**
 * Exchange a ticket for an API key. This call is not part of the API and needs no key, so it is the only request of the
 * page that does not use the client. Throws Error with the server's message.
 * @param {string} baseUrl
 * @param {string} ticket
 * @returns {Promise<string>}
 */
export async function exchange(baseUrl, ticket) {
  const response = await fetch(`${baseUrl}/studio/session`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ticket }),
    redirect: "error",
  });
  const body = await response.json();
  if (!response.ok) throw new Error(`${body.error}. ${body.next}`);
  return body.key;
}
