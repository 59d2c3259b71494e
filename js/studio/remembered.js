// Staying signed in on this device: a cookie that scripts cannot read takes the place of the key. These calls are not part
// of the API, so they do not use the client.

/** Marks that this browser has the cookie, which scripts cannot see. It is no secret. */
const NAME = "umrgen-remembered";
/** With this header, the server uses the cookie; a page of another origin cannot send it. */
const HEADER = { "X-Umrgen-Studio": "cookie" };

/** @typedef {{id: string, device: string, created_at: number, last_used_at: number | null, expires_at: number | null}} Device */

export const remembered = {
  get here() {
    try {
      return localStorage.getItem(NAME) === "1";
    } catch {
      return false; // without storage
    }
  },
  /** @param {boolean} here */
  set here(here) {
    try {
      if (here) localStorage.setItem(NAME, "1");
      else localStorage.removeItem(NAME);
    } catch {
      // The page cannot find the cookie again: the next visit asks for the key.
    }
  },
};

/**
 * Return a `fetch` that sends the cookie with requests to the server at `baseUrl`.
 * @param {string} baseUrl
 * @returns {typeof fetch}
 */
export function cookieFetch(baseUrl) {
  return (input, init) => {
    if (!String(input).startsWith(`${baseUrl}/`)) return fetch(input, init);
    return fetch(input, { ...init, credentials: "same-origin", headers: { ...init?.headers, ...HEADER } });
  };
}

/**
 * Store the cookie in this browser. Throws Error.
 * @param {string} baseUrl
 * @param {string} apiKey
 */
export async function remember(baseUrl, apiKey) {
  const headers = { Authorization: `Bearer ${apiKey}`, "Content-Type": "application/json" };
  await call(`${baseUrl}/studio/devices`, { method: "POST", headers, body: JSON.stringify({ device: description() }) });
  remembered.here = true;
}

/** Remove the cookie of this browser. Throws Error. @param {string} baseUrl */
export async function forget(baseUrl) {
  remembered.here = false;
  await call(`${baseUrl}/studio/sign-out`, { method: "POST", headers: HEADER });
}

/**
 * Return the devices of this user's key. Throws Error.
 * @param {string} baseUrl
 * @param {Record<string, string>} headers
 * @returns {Promise<Device[]>}
 */
export async function devices(baseUrl, headers) {
  return (await call(`${baseUrl}/studio/devices`, { headers })).devices;
}

/**
 * Sign a device out. Throws Error.
 * @param {string} baseUrl
 * @param {Record<string, string>} headers
 * @param {string} id
 */
export async function signOutDevice(baseUrl, headers, id) {
  await call(`${baseUrl}/studio/devices/${encodeURIComponent(id)}`, { method: "DELETE", headers });
}

/** Return the headers by which this page is signed in. @param {string | null} apiKey @returns {Record<string, string>} */
export function credentials(apiKey) {
  return apiKey ? { Authorization: `Bearer ${apiKey}` } : HEADER;
}

/**
 * @param {string} url
 * @param {RequestInit} init
 * @returns {Promise<Record<string, any>>}
 */
async function call(url, init) {
  const response = await fetch(url, { ...init, credentials: "same-origin", redirect: "error" });
  const body = await response.json();
  if (!response.ok) throw new Error(`${body.error}. ${body.next}`);
  return body;
}

/** Return the name of this browser and system, for the list of devices. */
function description() {
  const agent = navigator.userAgent;
  const browser = [["Edg/", "Edge"], ["OPR/", "Opera"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["Safari/", "Safari"]];
  const system = [["Android", "Android"], ["iPhone", "iPhone"], ["iPad", "iPad"], ["Windows", "Windows"], ["Mac OS", "macOS"], ["Linux", "Linux"]];
  const named = (/** @type {string[][]} */ names) => names.find(([part]) => agent.includes(part))?.[1];
  return [named(browser), named(system)].filter(Boolean).join(" on ");
}
