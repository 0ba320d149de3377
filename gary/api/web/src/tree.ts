/** The session's tasks as a family: each one under the one that it goes on from. */

import type { Task } from "./api";
import { box } from "./dom";
import { formatTime } from "./words";

const STATES: Record<Task["state"], string> = {
  queued: "waiting",
  fetching: "listening",
  generating: "being made",
  encoding: "being made",
  completed: "finished",
  failed: "failed",
  cancelled: "cancelled",
};

/** What a task's music is called: where the first of its family came from. */
export function nameOf(task: Task, tasks: ReadonlyMap<string, Task>): string {
  const parent = task.parent && tasks.get(task.parent);
  if (parent) return nameOf(parent, tasks);
  const { source } = task.request;
  if (typeof source["url"] === "string") {
    const start_s = Number(source["start_s"] ?? 0);
    const name = URL.canParse(source["url"]) ? nameOfLink(new URL(source["url"])) : source["url"];
    return `${name}${start_s > 0 ? ` at ${formatTime(start_s)}` : ""}`;
  }
  return typeof source["name"] === "string" ? source["name"] : "Your music";
}

/** The last word of a path says most, where there is one that was meant for people. */
function nameOfLink(url: URL): string {
  const last = url.pathname.split("/").at(-1) ?? "";
  return last && last !== "watch" ? decodeURIComponent(last) : url.host.replace(/^www\./, "");
}

/** How much new music a task makes or made. */
function newOf({ music, request }: Task): string {
  const bars = music?.bars ?? request.length?.bars;
  return bars ? `${bars} bars` : music ? `${(music.duration_s - music.source_s).toFixed(0)} s` : "";
}

function detailOf(task: Task): string {
  const take = Number(task.request.source["take"] ?? 0);
  const parts = [
    task.parent ? "" : newOf(task),
    task.parent && take > 0 ? `from take ${take + 1}` : "",
    task.takes.length > 1 ? `${task.takes.length} takes` : "",
    task.state === "completed" ? "" : STATES[task.state],
  ];
  return parts.filter(Boolean).join(" · ");
}

/** Draws the family; tasks whose parent is not here stand at the root. */
export class Tree {
  private drawn = "";

  constructor(private readonly onSelect: (id: string) => void) {}

  /** Does nothing where nothing that shows has changed: each drawing disturbs who reads or points at it. */
  draw(tasks: readonly Task[], current: string | null): void {
    const seen = JSON.stringify([current, tasks.map((task) => [task.id, detailOf(task), newOf(task)])]);
    if (seen === this.drawn) return;
    this.drawn = seen;
    box("lineage").hidden = tasks.length === 0;
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset["task"] : undefined;
    const known = new Map(tasks.map((task) => [task.id, task]));
    box("tree").replaceChildren(...this.below(null, known, current));
    if (focused) box("tree").querySelector<HTMLElement>(`[data-task="${focused}"]`)?.focus();
  }

  private below(parent: string | null, known: ReadonlyMap<string, Task>, current: string | null): HTMLElement[] {
    const parentOf = (task: Task): string | null => (task.parent && known.has(task.parent) ? task.parent : null);
    const items = [...known.values()]
      .filter((task) => parentOf(task) === parent)
      .map((task) => {
        const item = document.createElement("li");
        const name = parent === null ? nameOf(task, known) : `+ ${newOf(task)}`;
        item.append(this.leaf(task, name, task.id === current), ...this.below(task.id, known, current));
        return item;
      });
    if (items.length === 0) return [];
    const list = document.createElement("ul");
    list.append(...items);
    return [list];
  }

  private leaf(task: Task, name: string, isCurrent: boolean): HTMLButtonElement {
    const leaf = document.createElement("button");
    leaf.type = "button";
    leaf.dataset["task"] = task.id;
    leaf.dataset["state"] = task.state;
    if (isCurrent) leaf.setAttribute("aria-current", "true");
    const title = document.createElement("b");
    title.textContent = name;
    const detail = document.createElement("span");
    detail.textContent = detailOf(task);
    leaf.append(title, " ", detail);
    leaf.addEventListener("click", () => this.onSelect(task.id));
    return leaf;
  }
}
