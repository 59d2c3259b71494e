// The page: the key form, or the studio with one client.
import { Umrgen, Unauthorized, UmrgenError } from "../src/index.js";
import { exchange, key, ticketInAddress } from "./api_key.js";
import { Connection, ConnectionNote } from "./connection.js";
import { find } from "./dom.js";
import { removeDraft } from "./draft.js";
import { defineElements } from "./elements.js";
import { errorText } from "./format.js";
import { KeyForm } from "./key_form.js";
import { openStudio } from "./studio.js";

defineElements();

const keyForm = find(document, "um-key-form", KeyForm);
const signOut = find(document, ".leave");

/** The address of the server: the folder of this page, with any prefix. */
const baseUrl = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** Check the key and open the studio. @param {string} apiKey */
async function signIn(apiKey) {
  const connection = new Connection();
  find(document, "um-connection", ConnectionNote).open(connection);
  try {
    const umrgen = new Umrgen({ baseUrl, apiKey, onEvent: connection.onEvent });
    const capabilities = await umrgen.capabilities({ timeout: null, submitPatience: Infinity, longestBackoff: 4 });
    connection.succeeded();
    key.store(apiKey);
    keyForm.close();
    signOut.hidden = false;
    signOut.addEventListener("click", () => leave());
    openStudio({ umrgen, connection, capabilities, leave });
  } catch (error) {
    if (!(error instanceof UmrgenError)) throw error;
    const refused = error instanceof Unauthorized && error.coded; // a 401 without a code may be a gateway's
    if (refused) key.remove();
    keyForm.open(refused ? "The server does not accept this key." : `${errorText(error)}. ${error.next}`);
  }
}

/**
 * Remove the key and reload the page, so that nothing is left in memory.
 * @param {string} [reason]
 */
function leave(reason) {
  key.remove();
  if (reason) sessionStorage.setItem("umrgen-reason", reason);
  else removeDraft();
  location.reload();
}

/** Sign in by a one-time link or a stored key, or show the key form. */
async function start() {
  const reason = sessionStorage.getItem("umrgen-reason") ?? undefined;
  sessionStorage.removeItem("umrgen-reason");
  keyForm.addEventListener("key", (event) => signIn(/** @type {CustomEvent<string>} */ (event).detail));
  // A link that is opened in this tab changes only the fragment, and loads nothing.
  addEventListener("hashchange", () => /^#start=/.test(location.hash) && location.reload());
  const ticket = ticketInAddress();
  if (ticket) {
    try {
      return await signIn(await exchange(baseUrl, ticket));
    } catch (error) {
      // The link was used already; a stored key is used instead.
      if (!key.get()) return keyForm.open(errorText(/** @type {Error} */ (error)));
    }
  }
  const stored = key.get();
  if (stored) await signIn(stored);
  else keyForm.open(reason);
}

await start();
