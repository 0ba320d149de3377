/** The microphone: one recording at a time, as a file that can be uploaded. */

import { box, button, byId, write } from "./dom";
import { formatTime } from "./words";

const TYPES = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];
const RECORDING_MAX_S = 300;

export class Recorder {
  private readonly toggleButton = button("record");
  private readonly level = byId("record-level", HTMLMeterElement);
  private readonly preview = byId("record-preview", HTMLAudioElement);
  private running: Running | null = null;

  constructor(
    private readonly onFile: (file: File | null) => void,
    private readonly onTrouble: (what: string, remedy: string) => void,
  ) {
    this.toggleButton.addEventListener("click", () => void (this.running ? this.running.stop() : this.start()));
  }

  private async start(): Promise<void> {
    if (!("mediaDevices" in navigator) || !("MediaRecorder" in window)) {
      this.onTrouble("This page may not listen to the microphone.", "Open it over https or on localhost, or drop a file.");
      return;
    }
    let stream: MediaStream;
    try {
      const sound = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      stream = await navigator.mediaDevices.getUserMedia({ audio: sound });
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      this.onTrouble("The microphone was not opened.", "Allow it in the browser's settings of this page, or drop a file.");
      return;
    }
    this.onFile(null);
    this.preview.hidden = true;
    this.running = new Running(stream, (time_s, level) => this.tick(time_s, level), (file) => this.end(file));
    this.show(true);
  }

  private tick(time_s: number, level: number): void {
    write(box("record-words"), `Stop · ${formatTime(time_s)}`);
    this.level.value = level;
    if (time_s >= RECORDING_MAX_S) this.running?.stop();
  }

  private end(file: File): void {
    this.running = null;
    this.show(false);
    URL.revokeObjectURL(this.preview.src);
    this.preview.src = URL.createObjectURL(file);
    this.preview.hidden = false;
    write(box("record-words"), "Record again");
    this.onFile(file);
  }

  private show(records: boolean): void {
    this.toggleButton.ariaPressed = String(records);
    this.level.hidden = !records;
  }
}

class Running {
  private readonly chunks: Blob[] = [];
  private readonly began_ms = performance.now();
  private readonly context = new AudioContext();
  private readonly recorder: MediaRecorder;
  private frame = 0;

  constructor(
    private readonly stream: MediaStream,
    private readonly onTick: (time_s: number, level: number) => void,
    private readonly onEnd: (file: File) => void,
  ) {
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    this.recorder = new MediaRecorder(stream, mimeType ? { mimeType, audioBitsPerSecond: 192_000 } : {});
    this.recorder.addEventListener("dataavailable", (event) => this.chunks.push(event.data));
    this.recorder.addEventListener("stop", () => this.finish());
    this.recorder.start(1000);
    const analyser = new AnalyserNode(this.context, { fftSize: 1024 });
    this.context.createMediaStreamSource(stream).connect(analyser);
    this.follow(analyser, new Float32Array(analyser.fftSize));
  }

  stop(): void {
    if (this.recorder.state !== "inactive") this.recorder.stop();
  }

  private follow(analyser: AnalyserNode, samples: Float32Array<ArrayBuffer>): void {
    analyser.getFloatTimeDomainData(samples);
    const level = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    this.onTick((performance.now() - this.began_ms) / 1000, level);
    this.frame = requestAnimationFrame(() => this.follow(analyser, samples));
  }

  private finish(): void {
    cancelAnimationFrame(this.frame);
    for (const track of this.stream.getTracks()) track.stop();
    void this.context.close();
    const type = this.recorder.mimeType.split(";")[0] ?? "audio/webm";
    const suffix = type.endsWith("mp4") ? "m4a" : type.endsWith("ogg") ? "ogg" : "webm";
    this.onEnd(new File(this.chunks, `recording.${suffix}`, { type }));
  }
}
