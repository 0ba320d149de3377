/** The audio element: plays what is there, and asks for no more than has been made. */

import { byId, button, box, write } from "./dom";
import { formatTime } from "./words";

const EDGE_S = 0.2;

export class Player {
  private readonly audio = byId("audio", HTMLAudioElement);
  private readonly playButton = button("play");
  private readonly slider = box("wave");
  private reach_s = 0;
  private whole_s = 0;
  private frame = 0;

  constructor(
    private readonly onTime: (time_s: number) => void,
    onBroken: () => void,
  ) {
    this.audio.addEventListener("error", () => {
      if (this.audio.hasAttribute("src")) onBroken();
    });
    this.playButton.addEventListener("click", () => this.toggle());
    for (const name of ["play", "pause", "ended"]) this.audio.addEventListener(name, () => this.showState());
    for (const name of ["timeupdate", "seeked", "loadedmetadata"]) {
      this.audio.addEventListener(name, () => this.showTime());
    }
  }

  get time_s(): number {
    return this.audio.currentTime;
  }

  /** Plays at once where the browser lets it: without a gesture of the user it does not. */
  load(url: string, options: { plays: boolean; from_s?: number }): void {
    this.reach_s = 0;
    this.audio.src = url;
    this.playButton.disabled = false;
    const from_s = options.from_s ?? 0;
    if (from_s > 0) this.audio.addEventListener("loadedmetadata", () => this.jump(from_s), { once: true });
    if (options.plays) this.play();
    this.showTime();
  }

  unload(): void {
    this.audio.pause();
    this.audio.removeAttribute("src");
    this.audio.load();
    this.playButton.disabled = true;
    this.setLength(0, 0);
  }

  /** How long the music will be, and how much of it is there. */
  setLength(whole_s: number, reach_s: number): void {
    this.whole_s = whole_s;
    this.reach_s = reach_s;
    this.slider.ariaValueMax = whole_s.toFixed(1);
    write(box("length"), formatTime(whole_s));
  }

  toggle(): void {
    if (this.playButton.disabled) return;
    if (this.audio.paused) this.play();
    else this.audio.pause();
  }

  seek(time_s: number): void {
    const most_s = this.reach_s < this.whole_s - EDGE_S ? this.reach_s - EDGE_S : this.whole_s;
    this.jump(Math.max(0, Math.min(time_s, most_s)));
  }

  private jump(time_s: number): void {
    // where the server grants no ranges, a seek would begin again from 0
    const { seekable } = this.audio;
    if (seekable.length > 0 && seekable.end(seekable.length - 1) > 0) this.audio.currentTime = time_s;
    this.showTime();
  }

  private play(): void {
    this.audio.play().catch((error: unknown) => {
      const expected = error instanceof DOMException && ["AbortError", "NotAllowedError", "NotSupportedError"].includes(error.name);
      if (!expected) throw error;
    });
  }

  private showState(): void {
    const plays = !this.audio.paused;
    this.playButton.ariaLabel = plays ? "Pause" : "Play";
    this.playButton.classList.toggle("plays", plays);
    cancelAnimationFrame(this.frame);
    if (plays) this.follow();
  }

  private follow(): void {
    this.onTime(this.audio.currentTime);
    this.frame = requestAnimationFrame(() => this.follow());
  }

  private showTime(): void {
    const { currentTime } = this.audio;
    write(box("time"), formatTime(currentTime));
    this.slider.ariaValueNow = currentTime.toFixed(1);
    this.slider.ariaValueText = `${formatTime(currentTime)} of ${formatTime(this.whole_s)}`;
    this.onTime(currentTime);
  }
}
