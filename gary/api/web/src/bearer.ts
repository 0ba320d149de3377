/** Has the API key shown for what the page does not fetch itself: see worker/bearer.ts. */

import workerUrl from "./worker/bearer.ts?worker&url";

/**
 * Returns once the worker stands between this page and the service. Where the browser grants none (no https, a private window),
 * the page still works: it asks for the task again and again, and plays what is finished.
 */
export async function installBearer(key: () => string | null): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  const { serviceWorker } = navigator;
  serviceWorker.onmessage = ({ data, ports }) => {
    if (data === "key") ports[0]?.postMessage(key());
  };
  const controlled = new Promise((resolve) => serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
  try {
    await serviceWorker.register(workerUrl, { scope: new URL(".", document.baseURI).pathname });
  } catch (error) {
    if (error instanceof DOMException || error instanceof TypeError) return;
    throw error;
  }
  if (!serviceWorker.controller) await controlled;
}
