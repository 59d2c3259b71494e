// The tiles of the gallery in groups. The browser lays out, paints and observes the groups near the window; with thousands
// of single tiles, this takes longer than a frame.

/** Tiles of a group: they fill whole rows of one to six columns, and the page never has more columns. */
export const GROUP = 60;

/** Tiles in an element, by their index. */
export class TileGroups {
  #list;

  /** @param {HTMLElement} list */
  constructor(list) {
    this.#list = list;
  }

  /** @param {HTMLElement[]} tiles */
  append(tiles) {
    for (const tile of tiles) {
      const last = this.#list.lastElementChild;
      (last && last.childElementCount < GROUP ? last : this.#newGroup()).append(tile);
    }
  }

  /**
   * Insert a tile before the one with an index.
   * @param {HTMLElement} tile
   * @param {number} index
   */
  insert(tile, index) {
    /** @type {Element | null} */
    let group = this.#list.children[Math.floor(index / GROUP)];
    if (!group) return this.append([tile]);
    group.insertBefore(tile, group.children[index % GROUP] ?? null);
    while (group.childElementCount > GROUP) {
      /** @type {Element} */
      const next = group.nextElementSibling ?? this.#newGroup();
      move(next, group.lastElementChild, next.firstElementChild);
      group = next;
    }
  }

  /** @param {HTMLElement} tile */
  remove(tile) {
    let group = tile.parentElement;
    tile.remove();
    while (group?.nextElementSibling) {
      const next = /** @type {HTMLElement} */ (group.nextElementSibling);
      move(group, next.firstElementChild, null);
      group = next;
    }
    if (group && !group.childElementCount) group.remove();
  }

  clear() {
    this.#list.replaceChildren();
  }

  #newGroup() {
    const group = document.createElement("ul");
    group.className = "tile-group";
    this.#list.append(group);
    return group;
  }
}

/**
 * Move a tile; where the browser can do so, without the loss of its focus.
 * @param {any} group
 * @param {Element | null} tile
 * @param {Element | null} before
 */
function move(group, tile, before) {
  if (tile) (group.moveBefore ?? group.insertBefore).call(group, tile, before);
}
