// The service worker: it shows a page without a connection, and opens the job of a notification that was clicked. It stores
// no other page, no image and no key: everything else comes from the server.

/** Changed with any of the files below. */
const CACHE = "umrgen-offline-1";
const PAGE = "offline.html";
/** The files of the page without a connection, in the folder of this script. */
const FILES = [PAGE, "offline.css", "base.css", "icon.svg"];

const worker = /** @type {any} */ (globalThis);

worker.addEventListener("install", (/** @type {any} */ event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)));
});

worker.addEventListener("activate", (/** @type {any} */ event) => {
  const removeOthers = async () => {
    for (const name of await caches.keys()) if (name !== CACHE && name.startsWith("umrgen-")) await caches.delete(name);
  };
  event.waitUntil(removeOthers());
});

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  const { request } = event;
  const name = new URL(request.url).pathname.split("/").pop() ?? "";
  const known = request.mode === "navigate" ? PAGE : FILES.includes(name) && name;
  if (!known) return;
  const stored = async () => (await caches.match(new URL(known, worker.location.href))) ?? Response.error();
  event.respondWith(fetch(request).catch(stored));
});

worker.addEventListener("notificationclick", (/** @type {any} */ event) => {
  event.notification.close();
  const address = `${worker.registration.scope}#job=${event.notification.data?.job ?? ""}`;
  const open = async () => {
    const [page] = await worker.clients.matchAll({ type: "window" });
    if (!page) return worker.clients.openWindow(address);
    await page.focus();
    return page.navigate(address);
  };
  event.waitUntil(open());
});
