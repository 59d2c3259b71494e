// Files that are dropped on an element.

/**
 * Call `onFile` with a file that is dropped on `target`, but not on its part that handles files itself.
 * @param {HTMLElement} target
 * @param {string} except the selector of this part
 * @param {(file: File) => void} onFile
 */
export function addFileDrop(target, except, onFile) {
  const isOurs = (/** @type {DragEvent} */ event) =>
    event.dataTransfer?.types.includes("Files") && !(event.target instanceof Element && event.target.closest(except));
  target.addEventListener("dragover", (event) => {
    if (!isOurs(event)) return target.classList.remove("over");
    event.preventDefault();
    target.classList.add("over");
  });
  for (const type of ["dragleave", "drop"]) target.addEventListener(type, () => target.classList.remove("over"));
  target.addEventListener("drop", (event) => {
    const file = event.dataTransfer?.files[0];
    if (!file || !isOurs(event)) return;
    event.preventDefault();
    onFile(file);
  });
}
