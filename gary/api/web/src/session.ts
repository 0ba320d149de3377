/** What outlives a reload: ids of tasks, the theme, the settings, the key. All of it in localStorage, nothing on a server. */

const TASKS_MAX = 40;
const PREFIX = "gary.";

export class Session {
  /** Oldest first. */
  get ids(): string[] {
    return this.read<string[]>("tasks", []);
  }

  get current(): string | null {
    return this.read<string | null>("current", null);
  }

  set current(id: string | null) {
    this.store("current", id);
  }

  get theme(): "light" | "dark" | null {
    return this.read<"light" | "dark" | null>("theme", null);
  }

  set theme(theme: "light" | "dark" | null) {
    this.store("theme", theme);
  }

  get key(): string | null {
    return this.read<string | null>("key", null);
  }

  set key(key: string | null) {
    this.store("key", key);
  }

  get settings(): Record<string, string> {
    return this.read<Record<string, string>>("settings", {});
  }

  set settings(settings: Record<string, string>) {
    this.store("settings", settings);
  }

  add(id: string): void {
    this.store("tasks", [...this.ids.filter((other) => other !== id), id].slice(-TASKS_MAX));
  }

  drop(id: string): void {
    this.store("tasks", this.ids.filter((other) => other !== id));
    if (this.current === id) this.current = null;
  }

  private read<T>(name: string, otherwise: T): T {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? otherwise : (JSON.parse(text) as T);
  }

  private store(name: string, value: unknown): void {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  }
}
