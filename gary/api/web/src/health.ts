/** The service's health and queue in the page's corner: asked for while somebody looks, quietly. */

import { Problem, type Api, type Health } from "./api";
import { box, write } from "./dom";

const EVERY_MS = 5000;

export function watchHealth(api: Api): void {
  const ask = async (): Promise<void> => {
    if (document.hidden) return;
    try {
      show(await api.health());
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      paint("down", "The service does not answer");
    }
  };
  void ask();
  window.setInterval(() => void ask(), EVERY_MS);
  document.addEventListener("visibilitychange", () => void ask());
}

function show(health: Health): void {
  if (health.status !== "live") {
    const away = health.mongodb === "down" ? "The database" : health.pytorch === "down" ? "The model" : "A part of the service";
    paint("down", `${away} is away`);
    return;
  }
  const { queued, working } = health.queue ?? { queued: 0, working: 0 };
  const parts = [...(working > 0 ? [`${working} playing`] : []), ...(queued > 0 ? [`${queued} waiting`] : [])];
  paint(queued > 0 ? "busy" : "ready", parts.join(", ") || "Ready");
}

function paint(state: "ready" | "busy" | "down", words: string): void {
  box("health-dot").dataset["state"] = state;
  write(box("health-words"), words);
}
