// `<um-engine>`: a description of the engine.
import { cloneTemplate, element, find } from "./dom.js";

/** The engine in the capabilities. @typedef {{name: string, kind: string | null, version: string | null}} Engine */

/** A description of the engine. */
export class EngineNote extends HTMLElement {
  connectedCallback() {
    this.append(cloneTemplate("engine"));
  }

  /** Show the engine. @param {Engine} engine */
  open({ name, kind, version }) {
    const text = find(this, ".engine-text");
    if (kind === "procedural") {
      find(this, ".engine-kind").replaceChildren("Engine: ", element("strong", "procedural"), ", without a model");
      text.replaceChildren(cloneTemplate("procedural"));
      return;
    }
    const started = kind !== null;
    find(this, ".engine-kind").textContent = started ? `Engine: ${name}` : "The engine is starting";
    const note = started ? `A ${kind}, version ${version}.` : "Jobs can be sent already. They are drawn when it has started.";
    text.replaceChildren(element("p", note));
  }
}
