// Whether the server can be reached, as the last calls have found it, and the words that tell a person.
import { tell } from "./dom.js";
import { say } from "./live.js";

/** @import { Event as ClientEvent } from "../src/context.js" */

export class Connection extends EventTarget {
  lost = false;

  /** Hear what the client tells of its own accord. @param {ClientEvent} event */
  hear = (event) => {
    if (event.kind === "retrying" && event.data.code !== "rate_limited") this.#set(true);
  };

  /** An answer came. */
  good() {
    this.#set(false);
  }

  /** @param {boolean} lost */
  #set(lost) {
    if (lost === this.lost) return;
    this.lost = lost;
    tell(this, "change");
  }
}

/** `<um-connection>`: nothing to see while all is well. */
export class ConnectionNote extends HTMLElement {
  /** @param {Connection} connection */
  open(connection) {
    connection.addEventListener("change", () => this.#show(connection.lost));
    this.#show(connection.lost);
  }

  /** @param {boolean} lost */
  #show(lost) {
    if (lost === this.classList.contains("lost")) return;
    this.classList.toggle("lost", lost);
    this.textContent = lost ? "The server is out of reach. Your jobs are safe; trying again…" : "";
    say(lost ? "The server is out of reach. Your jobs are safe." : "The server is back.");
  }
}
