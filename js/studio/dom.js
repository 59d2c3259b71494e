// The few words in which the page's modules talk to the document.

/**
 * The element that must be there.
 * @template {Element} [T=HTMLElement]
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} [kind]
 * @returns {T}
 */
export function find(root, selector, kind) {
  const found = root.querySelector(selector);
  if (!(found instanceof (kind ?? HTMLElement))) throw new Error(`there is no ${selector}`);
  return /** @type {T} */ (found);
}

/**
 * A copy of what stands in `<template id="t-NAME">`.
 * @param {string} name
 */
export function copyOf(name) {
  return document.importNode(find(document, `#t-${name}`, HTMLTemplateElement).content, true);
}

/**
 * A copy of the one element in a template.
 * @param {string} name
 */
export function pieceOf(name) {
  return find(copyOf(name), "*");
}

/**
 * A bare element with words in it.
 * @param {string} name
 * @param {string} words
 */
export function element(name, words) {
  return Object.assign(document.createElement(name), { textContent: words });
}

/**
 * Point an icon at another symbol.
 * @param {Element} holder
 * @param {string} symbol
 */
export function setIcon(holder, symbol) {
  find(holder, "use", SVGElement).setAttribute("href", `#i-${symbol}`);
}

/**
 * Something for the elements around to hear.
 * @param {EventTarget} target
 * @param {string} type
 * @param {unknown} [detail]
 */
export function tell(target, type, detail) {
  target.dispatchEvent(new CustomEvent(type, { detail, bubbles: true }));
}
