// The storage of the browser, which a user can forbid: then the page works, and remembers nothing.

/** @typedef {"sessionStorage" | "localStorage"} Area of this tab, or of this browser */

/**
 * Return a stored value, or null.
 * @param {Area} area
 * @param {string} name
 */
export function stored(area, name) {
  try {
    return globalThis[area].getItem(name);
  } catch {
    return null;
  }
}

/**
 * Store a value; null removes it.
 * @param {Area} area
 * @param {string} name
 * @param {string | null} value
 */
export function store(area, name, value) {
  try {
    if (value === null) globalThis[area].removeItem(name);
    else globalThis[area].setItem(name, value);
  } catch {
    // It is forbidden or full: the next page does not find the value.
  }
}
