/** The page: puts its parts together, and is the only module that begins, cancels and selects tasks. */

import { Api, Problem, type Task } from "./api";
import { installBearer } from "./bearer";
import { box, button, write } from "./dom";
import { Form } from "./form";
import { watchHealth } from "./health";
import { installKeys } from "./keys";
import { Session } from "./session";
import { Stage } from "./stage";
import { installTheme } from "./theme";
import { nameOf, Tree } from "./tree";
import { Trouble } from "./trouble";

class Page {
  private readonly session = new Session();
  private readonly api = new Api(() => this.session.key);
  private readonly trouble = new Trouble();
  private readonly tasks = new Map<string, Task>();
  private readonly stage = new Stage(
    this.api,
    this.trouble,
    (task) => nameOf(task, this.tasks),
    (task) => this.changed(task),
  );
  private readonly form = new Form(this.session, this.trouble, () => this.startNew());
  private readonly tree = new Tree((id) => void this.open(id));
  private busy = false;

  async run(): Promise<void> {
    installTheme(this.session, () => this.stage.recolour());
    installKeys(this.stage, { goOn: () => this.form.element.requestSubmit(), undo: () => this.undo() });
    this.form.element.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.go();
    });
    button("new").addEventListener("click", () => this.startNew());
    button("undo").addEventListener("click", () => this.undo());
    button("cancel").addEventListener("click", () => void this.cancel());
    watchHealth(this.api);
    if (this.session.key) await installBearer(() => this.session.key);
    this.arrange();
    await this.guarded(async () => this.form.setModels(await this.api.models()));
    await this.restore();
  }

  /** Takes up what a reload left: the family, and the task that was on stage, in the middle of it or done. */
  private async restore(): Promise<void> {
    const current = this.session.current;
    if (current) await this.recall(current);
    const task = current && this.tasks.get(current);
    if (task) this.stage.show(task, false);
    await Promise.all(this.session.ids.filter((id) => id !== current).map((id) => this.recall(id)));
    this.arrange();
  }

  /** Those that have expired are dropped without a word. */
  private async recall(id: string): Promise<void> {
    try {
      this.tasks.set(id, await this.api.task(id));
    } catch (error) {
      if (error instanceof Problem && error.status === 404) this.session.drop(id);
      else this.trouble.show(error);
    }
  }

  private async go(): Promise<void> {
    const from = this.stage.current;
    if (this.busy || (from && isUnfinished(from))) return;
    this.trouble.clear();
    const chosen = goesOn(from) ? undefined : this.form.source();
    if (!goesOn(from) && !chosen) return;
    this.setBusy(true);
    await this.guarded(async () => {
      const wish = this.form.wish();
      let begun: Task;
      if (chosen) {
        const prompt = { length_s: wish.prompt?.length_s ?? 6, side: chosen.side };
        begun = await this.api.create(chosen.source, { ...wish, prompt }, chosen.file);
      } else {
        begun = await this.api.goOn(from?.id ?? "", wish, this.stage.stretch);
      }
      this.session.add(begun.id);
      this.select(begun, true);
    });
    this.setBusy(false);
  }

  private select(task: Task, plays: boolean): void {
    this.session.current = task.id;
    this.tasks.set(task.id, task);
    this.stage.show(task, plays);
  }

  private async open(id: string): Promise<void> {
    this.trouble.clear();
    await this.guarded(async () => this.select(await this.api.task(id), false));
  }

  private async cancel(): Promise<void> {
    const task = this.stage.current;
    if (!task || !isUnfinished(task)) return;
    await this.guarded(async () => {
      await this.api.cancel(task.id);
      this.select(await this.api.task(task.id), false);
    });
  }

  private undo(): void {
    const parent = this.stage.current?.parent;
    if (parent) void this.open(parent);
  }

  private startNew(): void {
    this.trouble.clear();
    this.session.current = null;
    this.stage.leave();
    this.arrange();
  }

  private changed(task: Task): void {
    this.tasks.set(task.id, task);
    this.arrange();
  }

  /** Shows what can be done now, and nothing else. */
  private arrange(): void {
    const task = this.stage.current;
    document.body.classList.toggle("staged", task !== null);
    box("headline").hidden = task !== null;
    button("new").hidden = task === null;
    button("undo").hidden = !task?.parent;
    this.form.choosesSource = !goesOn(task) && !(task && (isUnfinished(task) || task.parent));
    this.form.element.classList.toggle("waits", task !== null && isUnfinished(task));
    button("go").disabled = this.busy || (task !== null && !goesOn(task) && (isUnfinished(task) || task.parent !== null));
    const family = this.session.ids.flatMap((id) => this.tasks.get(id) ?? []);
    this.tree.draw(family, task?.id ?? null);
  }

  private setBusy(busy: boolean): void {
    this.busy = busy;
    button("go").ariaBusy = String(busy);
    if (busy) write(button("go"), "Sending…");
    else if (button("go").textContent === "Sending…") write(button("go"), "Play on");
    this.arrange();
  }

  /** Does something that may fail in words; where a key is wanted, asks for one and does it once more. */
  private async guarded(act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      if (!(error instanceof Problem && error.status === 401)) return this.trouble.show(error);
      const key = await this.trouble.askForKey();
      if (key === null) return this.trouble.show(error);
      this.session.key = key;
      await installBearer(() => this.session.key);
      await this.guarded(act);
    }
  }
}

function isUnfinished(task: Task): boolean {
  return ["queued", "fetching", "generating", "encoding"].includes(task.state);
}

function goesOn(task: Task | null): boolean {
  return task?.state === "completed";
}

void new Page().run();
