// The page: the key form, or the studio with one client.
import { Umrgen, Unauthorized, UmrgenError } from "../src/index.js";
import { exchange, key, ticketInAddress } from "./api_key.js";
import { Connection, ConnectionNote } from "./connection.js";
import { find } from "./dom.js";
import { removeDraft } from "./draft.js";
import { defineElements } from "./elements.js";
import { errorText } from "./format.js";
import { showDevices } from "./device_list.js";
import { KeyForm } from "./key_form.js";
import { announce } from "./live_region.js";
import { cookieFetch, credentials, forget, remember, remembered } from "./remembered.js";
import { store, stored } from "./storage.js";
import { openStudio } from "./studio.js";

/** Why the key form is shown after a reload. */
const REASON = "umrgen-reason";

defineElements();

const keyForm = find(document, "um-key-form", KeyForm);
const signOut = find(document, ".leave");

/** The address of the server: the folder of this page, with any prefix. */
const baseUrl = new URL(".", document.baseURI).href.replace(/\/$/, "");

/**
 * Check the key, or the cookie without one, and open the studio.
 * @param {string | null} apiKey
 * @param {boolean} [keep] whether this device stays signed in
 */
async function signIn(apiKey, keep = false) {
  const connection = new Connection();
  find(document, "um-connection", ConnectionNote).open(connection);
  try {
    const umrgen = client(apiKey, connection);
    const capabilities = await umrgen.capabilities({ timeout: null, submitPatience: Infinity, longestBackoff: 4 });
    connection.succeeded();
    if (apiKey && keep && (await isRemembered(apiKey))) return open(null, connection, capabilities);
    if (apiKey) key.store(apiKey);
    open(apiKey, connection, capabilities);
  } catch (error) {
    if (!(error instanceof UmrgenError)) throw error;
    const refused = error instanceof Unauthorized && error.coded; // a 401 without a code may be a gateway's
    if (refused) key.remove();
    if (refused && !apiKey) remembered.here = false;
    const reason = apiKey ? "The server does not accept this key." : "This device is no longer signed in.";
    keyForm.open(refused ? reason : `${errorText(error)}. ${error.next}`);
  }
}

/**
 * @param {string | null} apiKey
 * @param {Connection} connection
 */
function client(apiKey, connection) {
  const access = apiKey ? { apiKey } : { fetch: cookieFetch(baseUrl) };
  return new Umrgen({ baseUrl, onEvent: connection.onEvent, ...access });
}

/** Store the cookie of this device; return whether that succeeded. @param {string} apiKey */
async function isRemembered(apiKey) {
  try {
    await remember(baseUrl, apiKey);
    return true;
  } catch (error) {
    announce(`This device is not remembered: ${errorText(/** @type {Error} */ (error))}.`);
    return false;
  }
}

/**
 * @param {string | null} apiKey
 * @param {Connection} connection
 * @param {Record<string, any>} capabilities
 */
function open(apiKey, connection, capabilities) {
  keyForm.close();
  const devices = find(document, ".devices");
  signOut.hidden = devices.hidden = false;
  signOut.addEventListener("click", () => leave());
  devices.addEventListener("click", () => showDevices(baseUrl, credentials(apiKey)));
  openStudio({ umrgen: client(apiKey, connection), connection, capabilities, leave });
}

/**
 * Remove the key and the cookie, and reload the page, so that nothing is left in memory.
 * @param {string} [reason]
 */
async function leave(reason) {
  key.remove();
  if (remembered.here) await forget(baseUrl).catch(() => {}); // offline: the cookie stays, but is not used
  if (reason) store("sessionStorage", REASON, reason);
  else removeDraft();
  location.reload();
}

/** Sign in by a one-time link, a stored key or the cookie of this device, or show the key form. */
async function start() {
  const reason = stored("sessionStorage", REASON) ?? undefined;
  store("sessionStorage", REASON, null);
  keyForm.addEventListener("key", (event) => {
    const { key: entered, remember: keep } = /** @type {CustomEvent} */ (event).detail;
    signIn(entered, keep);
  });
  // A link that is opened in this tab changes only the fragment, and loads nothing.
  addEventListener("hashchange", () => /^#start=/.test(location.hash) && location.reload());
  const ticket = ticketInAddress();
  const known = () => key.get() ?? (remembered.here ? null : undefined);
  if (ticket) {
    try {
      return await signIn(await exchange(baseUrl, ticket));
    } catch (error) {
      // The link was used already; a stored key is used instead.
      if (known() === undefined) return keyForm.open(`${errorText(/** @type {Error} */ (error))}.`);
    }
  }
  const found = known();
  if (found === undefined) keyForm.open(reason);
  else await signIn(found);
}

// Only on HTTPS or this machine. The page works without it.
navigator.serviceWorker?.register(new URL("service_worker.js", import.meta.url), { scope: `${baseUrl}/` }).catch(() => {});

await start();
