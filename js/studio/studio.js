// The studio of a signed-in user: connects composer, queue, gallery and viewer.
import { Unauthorized, UmrgenError } from "../src/index.js";
import { Compare } from "./compare.js";
import { Composer } from "./composer.js";
import { find } from "./dom.js";
import { featuresOf } from "./features.js";
import { describeEnd, errorText } from "./format.js";
import { Gallery } from "./gallery.js";
import { findEntry } from "./job_search.js";
import { JobUpdater } from "./job_updates.js";
import { Jobs } from "./jobs.js";
import { Links } from "./links.js";
import { announce } from "./live_region.js";
import { Notifications } from "./notifications.js";
import { Queue } from "./queue.js";
import { connectSelection } from "./selection_actions.js";
import { submitAll } from "./submissions.js";
import { showProgress } from "./tab_progress.js";
import { Verifier } from "./verifier.js";
import { Viewer } from "./viewer.js";

/** @import { Umrgen } from "../src/index.js" */
/** @import { DrawRequest } from "./composer.js" */
/** @import { Connection } from "./connection.js" */
/** @import { JobEntry } from "./jobs.js" */

const KEY_REFUSED = "The server no longer accepts your key: it has expired or was revoked.";
/** The images of *Variations*. */
const VARIATIONS = 4;

/**
 * Listen to an event with its detail.
 * @param {EventTarget} target
 * @param {string} type
 * @param {(detail: any) => unknown} listener
 */
function on(target, type, listener) {
  target.addEventListener(type, (event) => listener(/** @type {CustomEvent} */ (event).detail));
}

/**
 * Show the studio and connect its parts. `leave` signs out, with a reason.
 * @param {{umrgen: Umrgen, connection: Connection, capabilities: Record<string, any>, leave: (reason?: string) => void}} session
 */
export function openStudio({ umrgen, connection, capabilities, leave }) {
  const composer = find(document, "um-composer", Composer);
  const gallery = find(document, "um-gallery", Gallery);
  const queue = find(document, "um-queue", Queue);
  const viewer = find(document, "um-viewer", Viewer);
  const jobs = new Jobs();
  const links = new Links();
  const updater = new JobUpdater(umrgen, jobs, connection);
  find(document, ".studio").hidden = false;
  composer.open(umrgen, capabilities, jobs);
  gallery.open(umrgen, jobs, links.view, capabilities);
  viewer.open(umrgen, gallery, capabilities);
  find(document, "um-compare", Compare).open(umrgen);
  queue.open(jobs, new Notifications(jobs, (entry) => links.open({ job: entry.id }).then(showLinked)));
  showProgress(jobs);

  // --- drawing ---

  on(composer, "draw", (/** @type {DrawRequest} */ drawRequest) => draw(drawRequest).finally(() => composer.ready()));
  on(viewer, "retry", ({ request, status }) => draw({ request, seeds: [status.seed] }));
  on(viewer, "variations", ({ request }) => draw({ request, seeds: Array.from({ length: VARIATIONS }, () => undefined) }));
  on(document, "cancel", (/** @type {JobEntry} */ entry) => cancel(entry));
  on(queue, "cancelall", async (/** @type {JobEntry[]} */ entries) => {
    let cancelled = 0;
    // The last ones first: otherwise the engine would start those that are cancelled next.
    for (const entry of entries.reverse()) if (await cancel(entry)) cancelled++;
    const failed = entries.length - cancelled;
    announce(`${cancelled} jobs were cancelled.${failed ? ` ${failed} could not be cancelled.` : ""}`);
  });

  // --- from an image to the form ---

  on(viewer, "reuse", ({ request, status }) => {
    composer.fill({ ...request, references: request.reference_images, seed: String(status.seed ?? "") });
    composer.focus();
    announce("The settings are in the form.");
  });
  on(viewer, "seed", ({ status }) => {
    composer.fill({ seed: String(status.seed ?? "") });
    composer.focus();
    announce(`The seed ${status.seed} is in the form.`);
  });
  on(viewer, "reference", (/** @type {JobEntry} */ entry) => composer.addReference(entry));
  on(composer, "referencejob", (/** @type {string} */ id) => {
    const entry = jobs.get(id);
    if (entry) composer.addReference(entry);
  });
  on(gallery, "idea", (/** @type {string} */ prompt) => {
    composer.fill({ prompt });
    composer.focus();
  });

  // --- views and their links ---

  on(gallery, "view", (/** @type {JobEntry} */ entry) => {
    links.open({ job: entry.id });
    viewer.show(entry);
  });
  on(gallery, "filter", async ({ changes, typing }) => {
    await (typing ? links.replace(changes) : links.open(changes));
    gallery.show(links.view);
  });
  on(viewer, "moved", (/** @type {JobEntry} */ { id }) => links.replace({ job: id }));
  on(viewer, "closed", (/** @type {JobEntry} */ { id }) => {
    links.closeJob();
    gallery.focusOn(id);
  });
  on(viewer, "left", () => links.closeJob());
  on(links, "change", () => {
    gallery.show(links.view);
    showLinked();
  });
  if (featuresOf(capabilities).verification) openVerifier();
  connectSelection({ umrgen, jobs, gallery, viewer, handleError });

  // --- the state of jobs ---

  on(jobs, "finished", (/** @type {JobEntry} */ entry) => {
    const done = entry.status.state === "completed";
    announce(`${done ? "Finished" : describeEnd(entry).title}: ${entry.request.prompt.slice(0, 80)}`);
  });
  on(updater, "unauthorized", () => leave(KEY_REFUSED));
  on(updater, "listed", async () => {
    if (capabilities.engine.kind !== null) return;
    try {
      capabilities = await umrgen.capabilities();
      composer.open(umrgen, capabilities, jobs);
    } catch (error) {
      handleError(error, () => {}); // after the next list, they are requested again
    }
  });
  updater.start();
  if (links.view.job) showLinked();
  else composer.focus();

  /** Verify images: by the button in the header, or those that are dropped on the page. */
  function openVerifier() {
    const [verifier, button] = [find(document, "um-verifier", Verifier), find(document, ".verify-open")];
    verifier.open(umrgen);
    button.hidden = false;
    button.addEventListener("click", () => verifier.show());
    on(verifier, "verifiedjob", (/** @type {string} */ job) => links.open({ job }).then(showLinked));
    on(verifier, "failed", (error) => handleError(error, () => {}));
  }

  /** Show the job in the address, or close the viewer without one. */
  async function showLinked() {
    const { job } = links.view;
    if (!job) return viewer.close();
    try {
      const entry = await findEntry(umrgen, jobs, job);
      if (links.view.job !== job) return;
      if (entry) return viewer.show(entry);
      announce("The job in this link does not exist.");
      links.replace({ job: "" });
    } catch (error) {
      handleError(error, (failure) => gallery.note("The linked image cannot be shown", `${errorText(failure)}. ${failure.next}`));
    }
  }

  /** Submit jobs and show the queue, or the error in the form. @param {DrawRequest} drawRequest */
  async function draw(drawRequest) {
    try {
      composer.sent(await submitAll(umrgen, jobs, drawRequest));
      queue.reveal();
    } catch (error) {
      handleError(error, (failure) => composer.refused(failure));
    }
  }

  /** Cancel a job; return whether that succeeded. @param {JobEntry} entry */
  async function cancel(entry) {
    jobs.patch(entry.id, { cancelling: true, problem: "" });
    try {
      jobs.update(await umrgen.job(entry.id).cancel());
      return true;
    } catch (error) {
      handleError(error, (failure) => {
        const text = `The job could not be cancelled. ${errorText(failure)}.`;
        jobs.patch(entry.id, { cancelling: false, problem: text });
        announce(text);
      });
      return false;
    }
  }

  /**
   * Show an error of the client; sign out when the key is not accepted.
   * @param {unknown} error
   * @param {(error: UmrgenError) => void} show
   */
  function handleError(error, show) {
    if (!(error instanceof UmrgenError)) throw error;
    show(error);
    if (error instanceof Unauthorized && error.coded) leave(KEY_REFUSED);
  }
}
