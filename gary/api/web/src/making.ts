/** How the making of music goes, in words. */

import { FINAL, type Task } from "./api";
import { box, button, byId, write } from "./dom";
import { sentence } from "./trouble";
import { formatLeft, formatTime, remedy } from "./words";

/** What is being done, how far it is, and how it can be ended. */
export function showMaking(task: Task): void {
  const making = box("making");
  making.hidden = task.state === "completed";
  making.dataset["state"] = task.state;
  const progress = byId("progress", HTMLProgressElement);
  progress.hidden = FINAL.has(task.state);
  if (task.state === "generating" && task.progress) progress.value = task.progress.fraction;
  else progress.removeAttribute("value");
  button("cancel").hidden = FINAL.has(task.state);
  write(box("making-words"), wordsOf(task));
  document.title = task.state === "generating" ? `${percentOf(task)} % · gary` : "gary";
}

/** Tells screen readers of changes of state alone: each tick of progress would talk over the music. */
export function announce(task: Task): void {
  const words: Record<Task["state"], string> = {
    queued: "Waiting for its turn",
    fetching: "Listening to what came before",
    generating: "Making music; you can listen already",
    encoding: "Finishing",
    completed: `Finished, ${formatTime(task.music?.duration_s ?? 0)} long`,
    failed: wordsOf(task),
    cancelled: "Cancelled",
  };
  write(box("announce"), words[task.state]);
}

function percentOf(task: Task): number {
  return Math.floor(100 * (task.progress?.fraction ?? 0));
}

function wordsOf(task: Task): string {
  switch (task.state) {
    case "queued": {
      const place = task.queue?.position;
      const rank = place === undefined || place <= 1 ? "Next in line" : `${place - 1} before you`;
      return [rank, formatLeft(task.queue?.eta_s)].filter(Boolean).join(" · ");
    }
    case "fetching":
      return task.request.source["url"] ? "Fetching the song" : "Listening to what came before";
    case "generating":
      return ["Making music", `${percentOf(task)} %`, formatLeft(task.progress?.eta_s)].filter(Boolean).join(" · ");
    case "encoding":
      return "Finishing";
    case "completed":
      return "";
    case "failed":
      return `${sentence(task.error?.message ?? "It failed")} ${remedy(task.error?.code ?? "")}`;
    case "cancelled":
      return "Cancelled.";
  }
}
