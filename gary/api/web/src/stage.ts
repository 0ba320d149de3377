/** One task on stage: heard, seen and cropped while it is made and afterwards. Begins nothing and ends nothing itself. */

import { audioUrl, FINAL, type Api, type Music, type Task } from "./api";
import { box, button, input, write } from "./dom";
import { download } from "./download";
import { announce, showMaking } from "./making";
import { Player } from "./player";
import type { Trouble } from "./trouble";
import { Wave, type Crop } from "./wave";
import type { Peaks } from "./wav";
import { watchSamples, watchTask } from "./watch";
import { formatTime, parseTime } from "./words";

const LEAD_IN_S = 4;
const DRAW_EVERY_MS = 120;
const BREAKS_MAX = 4;

export class Stage {
  private readonly wave: Wave;
  private readonly player: Player;
  private task: Task | null = null;
  private take = 0;
  private hasSound = false;
  private breaks = 0;
  /** Where the sound broke off, if it did. */
  private heard_s: number | null = null;
  private drawn_ms = 0;
  private stops: (() => void)[] = [];
  private stopSamples: (() => void) | null = null;

  constructor(
    private readonly api: Api,
    private readonly trouble: Trouble,
    private readonly title: (task: Task) => string,
    private readonly onChange: (task: Task) => void,
  ) {
    this.player = new Player((time_s) => this.wave.setTime(time_s), () => this.soundBroke());
    this.wave = new Wave({ onSeek: (time_s) => this.player.seek(time_s), onCrop: () => this.showCrop() });
    input("snap").addEventListener("change", () => (this.wave.snaps = input("snap").checked));
    for (const id of ["crop-from", "crop-to"]) input(id).addEventListener("change", () => this.takeCropTyped());
    button("crop-clear").addEventListener("click", () => this.clearCrop());
    button("download").addEventListener("click", () => void this.download());
  }

  get current(): Task | null {
    return this.task;
  }

  /** What a continuation goes on from: all of the take, or the part that is marked. */
  get stretch(): { take: number; start_s?: number; end_s?: number } {
    const crop = this.wave.crop;
    return { take: this.take, ...crop };
  }

  /** Puts a task on stage; `plays` begins to play as soon as there is something to hear. */
  show(task: Task, plays: boolean): void {
    this.leave();
    box("stage").hidden = false;
    this.wave.clear();
    this.update(task, plays);
    if (FINAL.has(task.state)) return;
    const onTask = (told: Task): void => this.update(told, plays);
    this.stops.push(watchTask(this.api, task.id, onTask, (error) => this.trouble.show(error)));
  }

  leave(): void {
    for (const stop of this.stops.splice(0)) stop();
    this.stopSamples?.();
    this.stopSamples = null;
    this.player.unload();
    this.task = null;
    this.take = 0;
    this.hasSound = false;
    this.breaks = 0;
    this.heard_s = null;
    box("stage").hidden = true;
    document.title = "gary";
  }

  recolour(): void {
    this.wave.recolour();
  }

  toggle(): void {
    this.player.toggle();
  }

  /** Seeks by bars, or by seconds where no bars are known. */
  step(bars: number): void {
    this.player.seek(this.player.time_s + bars * (this.wave.bar_s ?? 1));
  }

  seek(time_s: number): void {
    this.player.seek(time_s);
  }

  clearCrop(): void {
    this.wave.crop = null;
    this.showCrop();
  }

  setTake(take: number): void {
    if (!this.task || take === this.take || take >= takesOf(this.task)) return;
    this.take = take;
    this.sound(true, this.player.time_s);
    this.showTakes(this.task);
  }

  private update(task: Task, plays: boolean): void {
    const old = this.task;
    this.task = task;
    const ended = FINAL.has(task.state);
    if (task.music && (task.state === "completed" || !ended) && !this.hasSound) {
      this.wave.setMusic(task.music);
      this.sound(plays, this.heard_s ?? beginningOf(task, task.music));
    }
    if (task.state === "failed" || task.state === "cancelled") this.silence();
    this.wave.croppable = task.state === "completed";
    showMaking(task);
    this.showFacts(task);
    this.showTakes(task);
    this.showCrop();
    button("download").disabled = task.state !== "completed";
    if (old?.state !== task.state) announce(task);
    this.onChange(task);
  }

  private sound(plays: boolean, from_s: number): void {
    const task = this.task;
    if (!task) return;
    this.hasSound = true;
    const live = task.state !== "completed";
    this.player.load(audioUrl(task.id, this.take, { live }), { plays, from_s });
    this.stopSamples?.();
    const onPeaks = (peaks: Peaks, whole: boolean): void => this.draw(peaks, whole);
    this.stopSamples = watchSamples(this.api, task.id, this.take, onPeaks, (error) => this.trouble.show(error));
  }

  private silence(): void {
    this.player.unload();
    this.stopSamples?.();
    this.stopSamples = null;
  }

  /** The live stream ends early where an attempt fails: the next one is heard from where this one was. */
  private soundBroke(): void {
    const { task } = this;
    this.breaks += 1;
    this.heard_s = this.player.time_s;
    if (task?.state === "completed") void this.playCopy(task);
    else if (task && this.breaks <= BREAKS_MAX) this.hasSound = false;
  }

  /** For where the audio element is refused what the page itself is given: fetched whole, then played. */
  private async playCopy(task: Task): Promise<void> {
    if (this.breaks > BREAKS_MAX) return this.trouble.say("The browser cannot play this.", "Download it instead.");
    const from_s = this.player.time_s;
    try {
      const copy = URL.createObjectURL(await this.api.bytes(audioUrl(task.id, this.take)));
      if (this.task?.id === task.id) this.player.load(copy, { plays: false, from_s });
    } catch (error) {
      this.trouble.show(error);
    }
  }

  private draw(peaks: Peaks, whole: boolean): void {
    this.player.setLength(peaks.duration_s, whole ? peaks.duration_s : peaks.reach_s);
    const now_ms = performance.now();
    if (peaks.duration_s === 0 || (!whole && now_ms - this.drawn_ms < DRAW_EVERY_MS)) return;
    this.drawn_ms = now_ms;
    this.wave.show(peaks);
  }

  private showFacts(task: Task): void {
    const { music } = task;
    const parts: string[] = [];
    if (music?.bars) parts.push(`${music.bars} bars`);
    if (music?.tempo_bpm) parts.push(`${Math.round(music.tempo_bpm * 10) / 10} bpm${music.tempo_assumed ? " assumed" : ""}`);
    parts.push(task.model.split("/").at(-1) ?? task.model, `seed ${task.seed + this.take}`);
    write(box("stage-title"), this.title(task));
    write(box("facts"), parts.join(" · "));
  }

  private showTakes(task: Task): void {
    const count = takesOf(task);
    const group = box("takes");
    group.hidden = count < 2;
    if (group.childElementCount !== count) {
      const chips = Array.from({ length: count }, (_, take) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.textContent = String(take + 1);
        chip.ariaLabel = `Take ${take + 1}`;
        chip.addEventListener("click", () => this.setTake(take));
        return chip;
      });
      group.replaceChildren(...chips);
    }
    for (const [take, chip] of [...group.children].entries()) chip.ariaPressed = String(take === this.take);
  }

  private showCrop(): void {
    const completed = this.task?.state === "completed";
    box("crop").hidden = !completed;
    const { crop } = this.wave;
    const whole: Crop = { start_s: 0, end_s: this.task?.music?.duration_s ?? 0 };
    const { start_s, end_s } = crop ?? whole;
    input("crop-from").value = formatTime(start_s, true);
    input("crop-to").value = formatTime(end_s, true);
    button("crop-clear").disabled = crop === null;
    const part = crop && `It goes on from ${formatTime(start_s, true)} to ${formatTime(end_s, true)}.`;
    write(box("crop-words"), part ?? "Drag across the waveform to go on from a part of it.");
    write(button("go"), completed && crop ? `Play on from ${formatTime(end_s, true)}` : "Play on");
    write(button("download"), crop ? "Download part" : "Download");
  }

  private takeCropTyped(): void {
    const [start_s, end_s] = [parseTime(input("crop-from").value), parseTime(input("crop-to").value)];
    const length_s = this.task?.music?.duration_s ?? 0;
    if (start_s !== undefined && end_s !== undefined && start_s < end_s) {
      this.wave.crop = { start_s, end_s: Math.min(end_s, length_s) };
    }
    this.showCrop();
  }


  private async download(): Promise<void> {
    if (!this.task) return;
    try {
      await download(this.api, this.task.id, this.take, this.wave.crop);
    } catch (error) {
      this.trouble.show(error);
    }
  }
}

/** Where to begin to listen: what goes on from music that was heard before begins a little before its end. */
function beginningOf(task: Task, { source_s, prompt_s }: Music): number {
  return task.parent ? Math.max(0, source_s - Math.min(prompt_s, LEAD_IN_S)) : 0;
}

function takesOf(task: Task): number {
  return Math.max(task.takes.length, task.request.takes ?? 1);
}
