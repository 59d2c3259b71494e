// `<um-engine>`: what draws here, in plain words.
import { copyOf, element, find } from "./dom.js";

/** What draws, as the server tells it. @typedef {{name: string, kind: string | null, version: string | null}} Engine */

export class EngineNote extends HTMLElement {
  connectedCallback() {
    this.append(copyOf("engine"));
  }

  /** @param {Engine} engine */
  open({ name, kind, version }) {
    const words = find(this, ".engine-words");
    if (kind === "procedural") {
      find(this, ".engine-kind").replaceChildren("Engine: ", element("strong", "procedural"), ", rules and no model");
      words.replaceChildren(copyOf("procedural"));
      return;
    }
    const up = kind !== null;
    find(this, ".engine-kind").textContent = up ? `Engine: ${name}` : "The engine is starting";
    const told = up ? `A ${kind}, version ${version}.` : "Jobs are taken already, and drawn as soon as it is up.";
    words.replaceChildren(element("p", told));
  }
}
