/** What is wished for: the source, and how the music should be. Settings outlive a reload; a chosen file does not. */

import type { Models, Source, Wish } from "./api";
import { box, button, byId, input, select, write } from "./dom";
import { Recorder } from "./record";
import type { Session } from "./session";
import type { Trouble } from "./trouble";
import { formatBytes, formatTime, parseTime, timeOfLink } from "./words";

const KEPT = ["description", "bars", "takes-wanted", "prompt", "seed", "tempo", "guidance", "temperature"] as const;
const SEEDS = 1_000_000;

type Kind = "link" | "file" | "microphone";

export interface Chosen {
  source: Source;
  side: "cursor" | "tail";
  file?: File;
}

export class Form {
  readonly element = byId("form", HTMLFormElement);
  private readonly start = input("start");
  private files: { file: File | null; microphone: File | null } = { file: null, microphone: null };

  constructor(
    private readonly session: Session,
    private readonly trouble: Trouble,
    onDropped: () => void,
  ) {
    for (const radio of this.radios()) radio.addEventListener("change", () => this.chooseKind());
    button("dice").addEventListener("click", () => this.roll());
    input("link").addEventListener("input", () => this.takeTimeOfLink());
    input("file").addEventListener("change", () => this.takeFile(input("file").files?.[0] ?? null));
    new Recorder(
      (file) => (this.files.microphone = file),
      (what, todo) => trouble.say(what, todo),
    );
    this.acceptDrops(onDropped);
    this.restore();
    this.element.addEventListener("change", () => this.keep());
    this.showKind();
  }

  /** With a source to choose, or for what goes on from the music that is shown. */
  set choosesSource(chooses: boolean) {
    byId("source", HTMLFieldSetElement).hidden = !chooses;
  }

  setModels({ models, default: standard }: Models): void {
    const list = select("model");
    list.replaceChildren(...models.map(({ name }) => new Option(name, name)));
    const kept = this.session.settings["model"];
    list.value = models.some(({ name }) => name === kept) ? (kept ?? standard) : standard;
    const explain = (): void => {
      const model = models.find(({ name }) => name === list.value);
      const facts = [model?.description, model && `size: ${model.size}`, model?.licence];
      const asleep = model?.replicas_ready === 0 ? "it has to wake up first" : null;
      write(box("model-words"), [...facts, asleep].filter(Boolean).join(" · "));
    };
    list.addEventListener("change", explain);
    explain();
  }

  wish(): Wish {
    const tempo_bpm = optional("tempo");
    const cfg_coef = optional("guidance");
    const temperature = optional("temperature");
    const description = input("description").value.trim();
    return {
      ...(select("model").value && { model: select("model").value }),
      ...(description && { description }),
      prompt: { length_s: input("prompt").valueAsNumber },
      length: { bars: input("bars").valueAsNumber, ...(tempo_bpm !== undefined && { tempo_bpm }) },
      sampling: { ...(cfg_coef !== undefined && { cfg_coef }), ...(temperature !== undefined && { temperature }) },
      ...(input("seed").value && { seed: Number(input("seed").value) }),
      takes: input("takes-wanted").valueAsNumber,
    };
  }

  /** The source, or undefined after having said what is missing. */
  source(): Chosen | undefined {
    const start_s = this.start.value.trim() ? parseTime(this.start.value) : undefined;
    if (this.start.value.trim() && start_s === undefined) {
      this.complain(this.start, `“${this.start.value}” is no time.`, "Write it as 1:23 or as seconds.");
      return undefined;
    }
    const kind = this.kind();
    if (kind === "link") {
      const url = input("link").value.trim();
      if (url) return { source: { url, start_s: start_s ?? 0 }, side: "cursor" };
      this.complain(input("link"), "There is no link yet.", "Paste one, or choose a file.");
      return undefined;
    }
    const file = this.files[kind];
    if (!file) {
      const what = kind === "file" ? "No file is chosen yet." : "Nothing is recorded yet.";
      this.complain(kind === "file" ? input("file") : button("record"), what, "It needs a few seconds of music.");
      return undefined;
    }
    if (start_s === undefined) return { source: { upload: true }, side: "tail", file };
    return { source: { upload: true, start_s }, side: "cursor", file };
  }

  private complain(where: HTMLElement, what: string, todo: string): void {
    this.trouble.say(what, todo);
    where.focus();
  }

  private radios(): HTMLInputElement[] {
    return [...this.element.querySelectorAll<HTMLInputElement>("input[name=kind]")];
  }

  private kind(): Kind {
    return (this.radios().find((radio) => radio.checked)?.value ?? "link") as Kind;
  }

  private chooseKind(): void {
    this.start.value = "";
    this.showKind();
  }

  private showKind(): void {
    const kind = this.kind();
    for (const slot of this.element.querySelectorAll<HTMLElement>(".slot")) slot.hidden = slot.dataset["kind"] !== kind;
    this.start.placeholder = kind === "link" ? "0:00" : "the end";
    const hint = kind === "link" ? "It hears the seconds from there, and goes on." : "Left empty, it hears the end and goes on.";
    write(box("start-hint"), hint);
  }

  private takeTimeOfLink(): void {
    const start_s = timeOfLink(input("link").value);
    if (start_s !== undefined) this.start.value = formatTime(start_s);
  }

  private takeFile(file: File | null): void {
    this.files.file = file;
    write(box("file-name"), file ? `${file.name} · ${formatBytes(file.size)}` : "Drop a file here, or choose one");
    box("drop").classList.toggle("filled", file !== null);
  }

  private roll(): void {
    const [random] = crypto.getRandomValues(new Uint32Array(1));
    input("seed").value = String((random ?? 0) % SEEDS);
    this.keep();
  }

  private acceptDrops(onDropped: () => void): void {
    const over = (is: boolean): void => void document.body.classList.toggle("dropping", is);
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      over(true);
    });
    document.addEventListener("dragleave", (event) => over(event.relatedTarget !== null));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      over(false);
      const file = event.dataTransfer?.files[0];
      if (!file) return;
      for (const radio of this.radios()) radio.checked = radio.value === "file";
      this.chooseKind();
      this.takeFile(file);
      onDropped();
    });
  }

  private keep(): void {
    const settings = Object.fromEntries(KEPT.map((id) => [id, input(id).value]));
    this.session.settings = { ...settings, model: select("model").value };
  }

  private restore(): void {
    const { settings } = this.session;
    for (const id of KEPT) {
      const value = settings[id];
      if (value !== undefined) input(id).value = value;
    }
  }
}

function optional(id: string): number | undefined {
  const value = input(id).valueAsNumber;
  return Number.isNaN(value) ? undefined : value;
}
