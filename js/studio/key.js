// The key: kept for this tab alone, and got from a link where the server has printed one.

const NAME = "umrgen-key";

export const key = {
  get() {
    return sessionStorage.getItem(NAME);
  },
  /** @param {string} value */
  keep(value) {
    sessionStorage.setItem(NAME, value);
  },
  forget() {
    sessionStorage.removeItem(NAME);
  },
};

/** The ticket in this page's address, which is taken out of it, and of the tab's history, at once. */
export function ticketInAddress() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get("start");
  if (ticket) history.replaceState(null, "", location.pathname + location.search);
  return ticket;
}

/**
 * The key that the server gives for a ticket. This is no call of the API, and there is no key yet: the one
 * request of this page that is not our client's. Throws Error, in the server's words.
 * @param {string} baseUrl
 * @param {string} ticket
 * @returns {Promise<string>}
 */
export async function exchange(baseUrl, ticket) {
  const answer = await fetch(`${baseUrl}/studio/session`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ticket }),
    redirect: "error",
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error(`${told.error}. ${told.next}`);
  return told.key;
}
