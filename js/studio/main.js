// The studio, put together: the door, then form, queue, gallery and viewer around one client.
import { Umrgen, Unauthorized, UmrgenError } from "../src/index.js";
import { Composer } from "./composer.js";
import { Connection, ConnectionNote } from "./connection.js";
import { find } from "./dom.js";
import { forgetDraft } from "./draft.js";
import { EngineNote } from "./engine.js";
import { Entry as Door } from "./entry.js";
import { Follower } from "./follow.js";
import { Gallery } from "./gallery.js";
import { Jobs } from "./jobs.js";
import { exchange, key, ticketInAddress } from "./key.js";
import { say } from "./live.js";
import { Queue } from "./queue.js";
import { ReferencePicker } from "./references.js";
import { send, sendOne } from "./send.js";
import { SizePicker } from "./sizes.js";
import { Snippet } from "./snippet.js";
import { ThemeSwitch } from "./switch.js";
import { Viewer } from "./viewer.js";
import { ending, plain } from "./words.js";

/** @import { Wish } from "./composer.js" */
/** @import { Entry } from "./jobs.js" */

// Parts before wholes, so that whoever is built finds its own parts alive.
for (const [name, kind] of Object.entries({
  "um-theme": ThemeSwitch,
  "um-connection": ConnectionNote,
  "um-size": SizePicker,
  "um-references": ReferencePicker,
  "um-engine": EngineNote,
  "um-snippet": Snippet,
  "um-entry": Door,
  "um-composer": Composer,
  "um-queue": Queue,
  "um-gallery": Gallery,
  "um-viewer": Viewer,
})) {
  customElements.define(name, /** @type {CustomElementConstructor} */ (kind));
}

const door = find(document, "um-entry", Door);
const composer = find(document, "um-composer", Composer);
const gallery = find(document, "um-gallery", Gallery);
const queue = find(document, "um-queue", Queue);
const viewer = find(document, "um-viewer", Viewer);
const studio = find(document, ".studio");
const leave = find(document, ".leave");

/** Where this page lies is where its server is, whatever the path before it. */
const baseUrl = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** Open the studio with a key that the server takes. @param {string} apiKey */
async function enter(apiKey) {
  const connection = new Connection();
  const umrgen = new Umrgen({ baseUrl, apiKey, onEvent: connection.hear });
  find(document, "um-connection", ConnectionNote).open(connection);
  try {
    const capabilities = await umrgen.capabilities({ timeout: null, submitPatience: Infinity, longestBackoff: 4 });
    connection.good();
    key.keep(apiKey);
    door.close();
    work(umrgen, connection, capabilities);
  } catch (error) {
    if (!(error instanceof UmrgenError)) throw error;
    if (error instanceof Unauthorized) key.forget();
    const refused = error instanceof Unauthorized;
    door.open(refused ? "The server does not accept this key." : `${plain(error)}. ${error.next}`);
  }
}

/**
 * @param {Umrgen} umrgen
 * @param {Connection} connection
 * @param {Record<string, any>} capabilities
 */
function work(umrgen, connection, capabilities) {
  const jobs = new Jobs();
  const follower = new Follower(umrgen, jobs, connection);
  studio.hidden = leave.hidden = false;
  composer.open(umrgen, capabilities);
  gallery.open(umrgen, jobs);
  viewer.open(umrgen, gallery);
  queue.open(jobs);

  /** @type {(target: EventTarget, type: string, listener: (detail: any) => unknown) => void} */
  const on = (target, type, listener) =>
    target.addEventListener(type, (event) => listener(/** @type {CustomEvent} */ (event).detail));

  on(composer, "draw", async (/** @type {Wish} */ wish) => {
    try {
      composer.sent(await send(umrgen, jobs, wish));
      queue.reveal();
    } catch (error) {
      trouble(error, (known) => composer.refused(known));
    }
  });
  on(document, "cancel", async (/** @type {Entry} */ entry) => {
    jobs.note(entry.id, { cancelling: true, trouble: "" });
    try {
      jobs.learn(await umrgen.job(entry.id).cancel());
    } catch (error) {
      trouble(error, (known) => {
        const words = `It could not be cancelled. ${plain(known)}.`;
        jobs.note(entry.id, { cancelling: false, trouble: words });
        say(words);
      });
    }
  });
  on(viewer, "retry", async (/** @type {Entry} */ { request, status }) => {
    try {
      await sendOne(umrgen, jobs, request, status.seed);
      composer.sent(1);
      queue.reveal();
    } catch (error) {
      trouble(error, (known) => composer.refused(known));
    }
  });
  on(viewer, "reuse", (/** @type {Entry} */ { request, status }) => {
    composer.fill({ ...request, references: request.reference_images, seed: String(status.seed ?? "") });
    composer.focus();
    say("The settings are in the form.");
  });
  on(viewer, "seed", (/** @type {Entry} */ { status }) => {
    composer.fill({ seed: String(status.seed ?? "") });
    composer.focus();
    say(`The seed ${status.seed} is in the form.`);
  });
  on(viewer, "closed", (/** @type {Entry} */ { id }) => gallery.focusOn(id));
  on(gallery, "look", (/** @type {Entry} */ entry) => viewer.show(entry));
  on(gallery, "idea", (/** @type {string} */ prompt) => {
    composer.fill({ prompt });
    composer.focus();
  });
  on(jobs, "over", (/** @type {Entry} */ entry) => {
    const done = entry.status.state === "completed";
    say(`${done ? "Finished" : ending(entry).title}: ${entry.request.prompt.slice(0, 80)}`);
  });
  on(follower, "unauthorized", () => depart("Your key is not accepted any more: it has ended, or was revoked."));
  on(follower, "listed", async () => {
    if (capabilities.engine.kind !== null) return;
    capabilities = await umrgen.capabilities();
    composer.open(umrgen, capabilities);
  });
  leave.addEventListener("click", () => depart());
  follower.start();
  composer.focus();

  /**
   * @param {unknown} error
   * @param {(error: UmrgenError) => void} show
   */
  function trouble(error, show) {
    if (!(error instanceof UmrgenError)) throw error;
    show(error);
    if (error instanceof Unauthorized) depart("Your key is not accepted any more: it has ended, or was revoked.");
  }
}

/**
 * Forget the key and begin anew, with nothing left in memory.
 * @param {string} [reason]
 */
function depart(reason) {
  key.forget();
  if (reason) sessionStorage.setItem("umrgen-reason", reason);
  else forgetDraft();
  location.reload();
}

async function begin() {
  const reason = sessionStorage.getItem("umrgen-reason") ?? undefined;
  sessionStorage.removeItem("umrgen-reason");
  door.addEventListener("key", (event) => enter(/** @type {CustomEvent<string>} */ (event).detail));
  const ticket = ticketInAddress();
  if (ticket) {
    try {
      return await enter(await exchange(baseUrl, ticket));
    } catch (error) {
      // A key from before is as good as the link that was used up.
      if (!key.get()) return door.open(plain(/** @type {Error} */ (error)));
    }
  }
  const kept = key.get();
  if (kept) await enter(kept);
  else door.open(reason);
}

await begin();
