// The page: the key form, then composer, queue, gallery and viewer with one client.
import { Umrgen, Unauthorized, UmrgenError } from "../src/index.js";
import { Composer } from "./composer.js";
import { Connection, ConnectionNote } from "./connection.js";
import { find } from "./dom.js";
import { removeDraft } from "./draft.js";
import { EngineNote } from "./engine.js";
import { KeyForm } from "./key_form.js";
import { JobUpdater } from "./job_updates.js";
import { Gallery } from "./gallery.js";
import { Jobs } from "./jobs.js";
import { exchange, key, ticketInAddress } from "./api_key.js";
import { announce } from "./live_region.js";
import { ModelSettings } from "./model_settings.js";
import { Queue } from "./queue.js";
import { ReferencePicker } from "./references.js";
import { submitAll, submitOne } from "./submissions.js";
import { SizePicker } from "./sizes.js";
import { CodeSample } from "./code_sample.js";
import { ThemeSwitch } from "./theme_switch.js";
import { Viewer } from "./viewer.js";
import { describeEnd, errorText } from "./format.js";

/** @import { DrawRequest } from "./composer.js" */
/** @import { JobEntry } from "./jobs.js" */

// Elements that contain others are defined after them, so that they can use them.
for (const [name, kind] of Object.entries({
  "um-theme-switch": ThemeSwitch,
  "um-connection": ConnectionNote,
  "um-size": SizePicker,
  "um-references": ReferencePicker,
  "um-model-settings": ModelSettings,
  "um-engine": EngineNote,
  "um-code-sample": CodeSample,
  "um-key-form": KeyForm,
  "um-composer": Composer,
  "um-queue": Queue,
  "um-gallery": Gallery,
  "um-viewer": Viewer,
})) {
  customElements.define(name, /** @type {CustomElementConstructor} */ (kind));
}

const keyForm = find(document, "um-key-form", KeyForm);
const composer = find(document, "um-composer", Composer);
const gallery = find(document, "um-gallery", Gallery);
const queue = find(document, "um-queue", Queue);
const viewer = find(document, "um-viewer", Viewer);
const studio = find(document, ".studio");
const signOut = find(document, ".leave");

/** The address of the server: the folder of this page, with any prefix. */
const baseUrl = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** Whether the server itself refuses the key: a 401 without a code may be a gateway's. @param {UmrgenError} error */
const isKeyRefused = (error) => error instanceof Unauthorized && error.coded;

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
    openStudio(umrgen, connection, capabilities);
  } catch (error) {
    if (!(error instanceof UmrgenError)) throw error;
    const refused = isKeyRefused(error);
    if (refused) key.remove();
    keyForm.open(refused ? "The server does not accept this key." : `${errorText(error)}. ${error.next}`);
  }
}

/**
 * Show the studio and connect its parts.
 * @param {Umrgen} umrgen
 * @param {Connection} connection
 * @param {Record<string, any>} capabilities
 */
function openStudio(umrgen, connection, capabilities) {
  const jobs = new Jobs();
  const updater = new JobUpdater(umrgen, jobs, connection);
  studio.hidden = signOut.hidden = false;
  composer.open(umrgen, capabilities);
  gallery.open(umrgen, jobs);
  viewer.open(umrgen, gallery);
  queue.open(jobs);

  /** @type {(target: EventTarget, type: string, listener: (detail: any) => unknown) => void} */
  const on = (target, type, listener) =>
    target.addEventListener(type, (event) => listener(/** @type {CustomEvent} */ (event).detail));

  on(composer, "draw", async (/** @type {DrawRequest} */ drawRequest) => {
    try {
      composer.sent(await submitAll(umrgen, jobs, drawRequest));
      queue.reveal();
    } catch (error) {
      handleError(error, (failure) => composer.refused(failure));
    }
  });
  on(document, "cancel", async (/** @type {JobEntry} */ entry) => {
    jobs.patch(entry.id, { cancelling: true, problem: "" });
    try {
      jobs.update(await umrgen.job(entry.id).cancel());
    } catch (error) {
      handleError(error, (failure) => {
        const text = `The job could not be cancelled. ${errorText(failure)}.`;
        jobs.patch(entry.id, { cancelling: false, problem: text });
        announce(text);
      });
    }
  });
  on(viewer, "retry", async (/** @type {JobEntry} */ { request, status }) => {
    try {
      await submitOne(umrgen, jobs, request, status.seed);
      composer.sent(1);
      queue.reveal();
    } catch (error) {
      handleError(error, (failure) => composer.refused(failure));
    }
  });
  on(viewer, "reuse", (/** @type {JobEntry} */ { request, status }) => {
    composer.fill({ ...request, references: request.reference_images, seed: String(status.seed ?? "") });
    composer.focus();
    announce("The settings are in the form.");
  });
  on(viewer, "seed", (/** @type {JobEntry} */ { status }) => {
    composer.fill({ seed: String(status.seed ?? "") });
    composer.focus();
    announce(`The seed ${status.seed} is in the form.`);
  });
  on(viewer, "closed", (/** @type {JobEntry} */ { id }) => gallery.focusOn(id));
  on(gallery, "view", (/** @type {JobEntry} */ entry) => viewer.show(entry));
  on(gallery, "idea", (/** @type {string} */ prompt) => {
    composer.fill({ prompt });
    composer.focus();
  });
  on(jobs, "finished", (/** @type {JobEntry} */ entry) => {
    const done = entry.status.state === "completed";
    announce(`${done ? "Finished" : describeEnd(entry).title}: ${entry.request.prompt.slice(0, 80)}`);
  });
  on(updater, "unauthorized", () => leave("The server no longer accepts your key: it has expired or was revoked."));
  on(updater, "listed", async () => {
    if (capabilities.engine.kind !== null) return;
    capabilities = await umrgen.capabilities();
    composer.open(umrgen, capabilities);
  });
  signOut.addEventListener("click", () => leave());
  updater.start();
  composer.focus();

  /**
   * Show an error of the client; sign out when the key is not accepted.
   * @param {unknown} error
   * @param {(error: UmrgenError) => void} show
   */
  function handleError(error, show) {
    if (!(error instanceof UmrgenError)) throw error;
    show(error);
    if (isKeyRefused(error)) leave("The server no longer accepts your key: it has expired or was revoked.");
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
