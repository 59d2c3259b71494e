// Staying signed in on this device: a cookie that scripts cannot read takes the place of the key.
import { pageCall } from "./page_calls.js";
import { store, stored } from "./storage.js";

/** Marks that this browser has the cookie, which scripts cannot see. It is no secret. */
const NAME = "umrgen-remembered";
/** With this header, the server uses the cookie; a page of another origin cannot send it. */
const HEADER = { "X-Umrgen-Studio": "cookie" };

/** @typedef {{id: string, device: string, created_at: number, last_used_at: number | null, expires_at: number | null}} Device */

export const remembered = {
  get here() {
    return stored("localStorage", NAME) === "1";
  },
  /** @param {boolean} here */
  set here(here) {
    store("localStorage", NAME, here ? "1" : null);
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
 * Store the cookie in this browser. Throws PageCallFailed.
 * @param {string} baseUrl
 * @param {string} apiKey
 */
export async function remember(baseUrl, apiKey) {
  const headers = { Authorization: `Bearer ${apiKey}`, "Content-Type": "application/json" };
  await pageCall(`${baseUrl}/studio/devices`, { method: "POST", headers, body: JSON.stringify({ device: description() }) });
  remembered.here = true;
}

/** Remove the cookie of this browser. Throws PageCallFailed. @param {string} baseUrl */
export async function forget(baseUrl) {
  remembered.here = false;
  await pageCall(`${baseUrl}/studio/sign-out`, { method: "POST", headers: HEADER });
}

/**
 * Return the devices of this user's key. Throws PageCallFailed.
 * @param {string} baseUrl
 * @param {Record<string, string>} headers
 * @returns {Promise<Device[]>}
 */
export async function devices(baseUrl, headers) {
  return (await pageCall(`${baseUrl}/studio/devices`, { headers })).devices;
}

/**
 * Sign a device out. Throws PageCallFailed.
 * @param {string} baseUrl
 * @param {Record<string, string>} headers
 * @param {string} id
 */
export async function signOutDevice(baseUrl, headers, id) {
  await pageCall(`${baseUrl}/studio/devices/${encodeURIComponent(id)}`, { method: "DELETE", headers });
}

/** Return the headers by which this page is signed in. @param {string | null} apiKey @returns {Record<string, string>} */
export function credentials(apiKey) {
  return apiKey ? { Authorization: `Bearer ${apiKey}` } : HEADER;
}

/** Return the name of this browser and system, for the list of devices. */
function description() {
  const agent = navigator.userAgent;
  const browser = [["Edg/", "Edge"], ["OPR/", "Opera"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["Safari/", "Safari"]];
  const system = [["Android", "Android"], ["iPhone", "iPhone"], ["iPad", "iPad"], ["Windows", "Windows"], ["Mac OS", "macOS"], ["Linux", "Linux"]];
  const named = (/** @type {string[][]} */ names) => names.find(([part]) => agent.includes(part))?.[1];
  return [named(browser), named(system)].filter(Boolean).join(" on ");
}
