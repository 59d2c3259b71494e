// Helpers for the document.

/**
 * Return the element that matches a selector. Throws Error without one.
 * @template {Element} [T=HTMLElement]
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} [kind]
 * @returns {T}
 */
export function find(root, selector, kind) {
  const found = root.querySelector(selector);
  if (!(found instanceof (kind ?? HTMLElement))) throw new Error(`no element matches ${selector}`);
  return /** @type {T} */ (found);
}

/**
 * Return a copy of the content of `<template id="t-NAME">`.
 * @param {string} name
 */
export function cloneTemplate(name) {
  return document.importNode(find(document, `#t-${name}`, HTMLTemplateElement).content, true);
}

/**
 * Return a copy of the single element in a template.
 * @param {string} name
 */
export function cloneElement(name) {
  return find(cloneTemplate(name), "*");
}

/**
 * Return a new element with a text.
 * @param {string} name
 * @param {string} text
 */
export function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

/**
 * Change the symbol of an icon.
 * @param {Element} holder
 * @param {string} symbol
 */
export function setIcon(holder, symbol) {
  find(holder, "use", SVGElement).setAttribute("href", `#i-${symbol}`);
}

/**
 * Dispatch a custom event that bubbles.
 * @param {EventTarget} target
 * @param {string} type
 * @param {unknown} [detail]
 */
export function emit(target, type, detail) {
  target.dispatchEvent(new CustomEvent(type, { detail, bubbles: true }));
}
