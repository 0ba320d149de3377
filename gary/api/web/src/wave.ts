/** The waveform with its bars, the end of what came before, and the stretch to go on from. Draws; plays nothing. */

import WaveSurfer from "wavesurfer.js";
import RegionsPlugin, { type Region } from "wavesurfer.js/plugins/regions";
import style from "virtual:wavesurfer-style";
import type { Music } from "./api";
import { box } from "./dom";
import type { Peaks } from "./wav";

export interface Crop {
  start_s: number;
  end_s: number;
}

interface Listeners {
  onSeek: (time_s: number) => void;
  onCrop: (crop: Crop | null) => void;
}

const QUIET_FLOOR = 0.25;
const CROP_MIN_S = 0.5;
const CROP_COLOUR = "var(--crop)";
const LABELS_MAX = 12;

export class Wave {
  snaps = true;
  private readonly surfer: WaveSurfer;
  private readonly regions = RegionsPlugin.create();
  private readonly frame = box("wave");
  private readonly grid = box("grid");
  private readonly before = box("before");
  private music: Music | null = null;
  private region: Region | null = null;
  private isDragged = true;
  private stopDragging: (() => void) | null = null;

  constructor(private readonly listeners: Listeners) {
    this.surfer = WaveSurfer.create({
      container: this.frame,
      height: "auto",
      barWidth: 3,
      barGap: 2,
      barRadius: 3,
      barMinHeight: 3,
      cursorWidth: 2,
      hideScrollbar: true,
      plugins: [this.regions],
      ...colours(),
    });
    adopt(this.surfer, style);
    this.surfer.on("interaction", (time_s) => listeners.onSeek(time_s));
    this.regions.on("region-created", (region) => this.keep(region));
    this.regions.on("region-updated", (region) => this.settle(region));
  }

  /** Redraws in the colours of the theme that is now in force. */
  recolour(): void {
    this.surfer.setOptions(colours());
  }

  clear(): void {
    this.crop = null;
    this.music = null;
    void this.surfer.load("", [new Float32Array(2)], 1);
    this.lay();
  }

  /** Shows the samples that are there; what is still to come stays a thin line. */
  show(peaks: Peaks): void {
    const loudest = peaks.values.reduce((most, level) => Math.max(most, level), QUIET_FLOOR);
    void this.surfer.load("", [peaks.values.map((level) => level / loudest)], peaks.duration_s);
  }

  /** Lays bars and the end of what came before over the waveform. */
  setMusic(music: Music | null): void {
    this.music = music;
    this.lay();
  }

  setTime(time_s: number): void {
    this.surfer.setTime(time_s);
  }

  get bar_s(): number | null {
    return this.music?.tempo_bpm ? 240 / this.music.tempo_bpm : null;
  }

  set croppable(croppable: boolean) {
    if (croppable === (this.stopDragging !== null)) return;
    if (croppable) {
      this.stopDragging = this.regions.enableDragSelection({ color: CROP_COLOUR, minLength: CROP_MIN_S });
    } else {
      this.stopDragging?.();
      this.stopDragging = null;
      this.crop = null;
    }
  }

  get crop(): Crop | null {
    return this.region && { start_s: this.region.start, end_s: this.region.end };
  }

  /** To the letter: what is dragged snaps to bars, what is typed does not. */
  set crop(crop: Crop | null) {
    this.isDragged = false;
    if (crop === null) {
      const region = this.region;
      this.region = null;
      region?.remove();
    } else if (this.region) {
      this.region.setOptions({ start: crop.start_s, end: crop.end_s });
    } else {
      this.regions.addRegion({ start: crop.start_s, end: crop.end_s, color: CROP_COLOUR, minLength: CROP_MIN_S });
    }
    this.isDragged = true;
  }

  /** The bar line, or the end, that is nearest. */
  snapped(time_s: number): number {
    const { music, bar_s } = this;
    if (!music || !bar_s) return time_s;
    const line_s = music.source_s + Math.round((time_s - music.source_s) / bar_s) * bar_s;
    const ends = [0, music.duration_s, Math.min(Math.max(line_s, 0), music.duration_s)];
    return ends.reduce((best, end) => (Math.abs(end - time_s) < Math.abs(best - time_s) ? end : best));
  }

  private keep(region: Region): void {
    if (this.region && this.region !== region) this.region.remove();
    this.region = region;
    this.settle(region);
  }

  private settle(region: Region): void {
    if (this.snaps && this.isDragged) {
      const [start_s, end_s] = [this.snapped(region.start), this.snapped(region.end)];
      if (end_s - start_s >= CROP_MIN_S) region.setOptions({ start: start_s, end: end_s });
    }
    this.listeners.onCrop(this.crop);
  }

  private lay(): void {
    const { music, bar_s } = this;
    const share = (time_s: number): string => `${(100 * time_s) / (music?.duration_s ?? 1)}%`;
    this.before.hidden = !music || music.source_s <= 0;
    if (music) this.before.style.width = share(music.source_s);
    const lines: HTMLElement[] = [];
    if (music && bar_s) {
      const first = -Math.floor(music.source_s / bar_s);
      const count = Math.floor((music.duration_s - music.source_s) / bar_s + 1e-3);
      const labelled = [1, 2, 4, 8, 16, 32].find((step) => (count - first) / step <= LABELS_MAX) ?? 64;
      for (let bar = first; bar <= count; bar += 1) {
        const line = document.createElement("i");
        line.style.left = share(music.source_s + bar * bar_s);
        if (bar >= 0 && bar < count && bar % labelled === 0) line.dataset["bar"] = String(bar + 1);
        lines.push(line);
      }
    }
    this.grid.replaceChildren(...lines);
  }
}

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name);
}

function colours(): { waveColor: string; progressColor: string; cursorColor: string } {
  return { waveColor: colour("--wave"), progressColor: colour("--wave-played"), cursorColor: colour("--ink") };
}

function adopt(surfer: WaveSurfer, css: string): void {
  const root = surfer.getWrapper().getRootNode();
  if (!(root instanceof ShadowRoot)) throw new Error("wavesurfer.js draws in no shadow root");
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  root.adoptedStyleSheets.push(sheet);
}
