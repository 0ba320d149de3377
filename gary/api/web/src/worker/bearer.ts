/**
 * A service worker that shows the API key for requests which cannot carry one themselves: the audio element's and
 * EventSource's. It keeps no key: it asks the page that it works for, which alone knows it, for each of them.
 */

declare const self: ServiceWorkerGlobalScope;

self.addEventListener("install", () => void self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const isOurs = request.url.startsWith(`${self.registration.scope}v1/`);
  if (!isOurs || request.method !== "GET" || request.headers.has("Authorization")) return;
  event.respondWith(withKey(event));
});

async function withKey({ request, clientId }: FetchEvent): Promise<Response> {
  const client = await self.clients.get(clientId);
  const headers = new Headers(request.headers);
  const key = client && (await askFor(client));
  if (key) headers.set("Authorization", `Bearer ${key}`);
  return fetch(request.url, { headers, signal: request.signal, cache: request.cache });
}

function askFor(client: Client): Promise<string | null> {
  const channel = new MessageChannel();
  return new Promise((resolve) => {
    channel.port1.onmessage = (event: MessageEvent<string | null>) => resolve(event.data);
    client.postMessage("key", [channel.port2]);
  });
}

export {};
