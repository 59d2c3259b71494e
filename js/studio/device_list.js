// The dialog with the devices that stay signed in.
import { cloneElement, element, find } from "./dom.js";
import { date, errorText } from "./format.js";
import { devices, signOutDevice } from "./remembered.js";

/**
 * Show the devices of this user's key.
 * @param {string} baseUrl
 * @param {Record<string, string>} headers
 */
export async function showDevices(baseUrl, headers) {
  const dialog = /** @type {HTMLDialogElement} */ (cloneElement("devices"));
  const list = find(dialog, ".device-list");
  const failed = (/** @type {unknown} */ error) => {
    find(dialog, ".devices-error").textContent = errorText(/** @type {Error} */ (error));
  };
  const showEmpty = () => list.children.length || list.append(element("li", "None."));
  find(dialog, ".no").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  try {
    for (const device of await devices(baseUrl, headers)) {
      const item = cloneElement("device");
      find(item, ".device-name").textContent = device.device;
      const used = device.last_used_at ? `Last used ${date(device.last_used_at)}` : `Since ${date(device.created_at)}`;
      find(item, ".device-times").textContent = used;
      const button = find(item, "button");
      button.setAttribute("aria-label", `Sign out: ${device.device}`);
      button.addEventListener("click", async () => {
        await signOutDevice(baseUrl, headers, device.id).then(() => item.remove(), failed);
        showEmpty();
      });
      list.append(item);
    }
    showEmpty();
  } catch (error) {
    failed(error);
  }
}
