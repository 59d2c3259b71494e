// The state of the connection, by the last calls, and `<um-connection>`, which shows it.
import { emit } from "./dom.js";
import { announce } from "./live_region.js";

/** @import { Event as ClientEvent } from "../src/context.js" */

/** Whether the server is reachable. Emits `change`. */
export class Connection extends EventTarget {
  lost = false;

  /** The event callback of the client. @param {ClientEvent} event */
  onEvent = (event) => {
    if (event.kind === "retrying" && event.data.code !== "rate_limited") this.#set(true);
  };

  /** Note a response of the server. */
  succeeded() {
    this.#set(false);
  }

  /** @param {boolean} lost */
  #set(lost) {
    if (lost === this.lost) return;
    this.lost = lost;
    emit(this, "change");
  }
}

/** `<um-connection>`: a note that is visible while the server is not reachable. */
export class ConnectionNote extends HTMLElement {
  /** @param {Connection} connection */
  open(connection) {
    const show = () => this.#show(connection.lost || !navigator.onLine);
    connection.addEventListener("change", show);
    for (const type of ["online", "offline"]) addEventListener(type, show);
    show();
  }

  /** @param {boolean} lost */
  #show(lost) {
    if (lost === this.classList.contains("lost")) return;
    const reason = navigator.onLine ? "The server cannot be reached." : "This device is offline.";
    this.classList.toggle("lost", lost);
    this.textContent = lost ? `${reason} Your jobs are safe; trying again…` : "";
    announce(lost ? `${reason} Your jobs are safe.` : "The server is reachable again.");
  }
}
