/** A 16-bit WAV read while it comes: its shape first, then samples as peaks. No network and no page. */

export interface WavShape {
  rate_hz: number;
  channels: number;
  /** Where the samples begin. */
  data_start_bytes: number;
  data_bytes: number;
}

/** The shape that a header tells; undefined as long as too little of it is there. Throws RangeError for anything but 16-bit PCM. */
export function readShape(bytes: Uint8Array): WavShape | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tag = (at: number): string => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (bytes.length < 12) return undefined;
  if (tag(0) !== "RIFF" || tag(8) !== "WAVE") throw new RangeError("no WAV");
  let format: { rate_hz: number; channels: number } | undefined;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length_bytes = view.getUint32(at + 4, true);
    const body = at + 8;
    if (tag(at) === "data" && format) return { ...format, data_start_bytes: body, data_bytes: length_bytes };
    if (tag(at) === "fmt ") {
      if (body + 16 > bytes.length) return undefined;
      if (view.getUint16(body + 14, true) !== 16) throw new RangeError("no 16-bit samples");
      format = { channels: view.getUint16(body + 2, true), rate_hz: view.getUint32(body + 4, true) };
    }
    at = body + length_bytes + (length_bytes % 2);
  }
  return undefined;
}

/** The loudest sample of each of `count` equal stretches of a WAV that is still coming. */
export class Peaks {
  readonly values: Float32Array;
  private head = new Uint8Array(0);
  private shape: WavShape | undefined;
  private samples = 0;
  private odd: number | undefined;

  constructor(count: number) {
    this.values = new Float32Array(count);
  }

  /** Length of the whole; 0 until the header is there. */
  get duration_s(): number {
    return this.shape ? this.shape.data_bytes / (2 * this.shape.channels * this.shape.rate_hz) : 0;
  }

  /** How far the samples reach by now. */
  get reach_s(): number {
    return this.shape ? this.samples / (this.shape.channels * this.shape.rate_hz) : 0;
  }

  push(bytes: Uint8Array): void {
    if (this.shape) {
      this.add(bytes, this.shape);
      return;
    }
    const joined = new Uint8Array(this.head.length + bytes.length);
    joined.set(this.head);
    joined.set(bytes, this.head.length);
    this.head = joined;
    this.shape = readShape(joined);
    if (this.shape) this.add(joined.subarray(this.shape.data_start_bytes), this.shape);
  }

  private add(bytes: Uint8Array, shape: WavShape): void {
    let at = 0;
    if (this.odd !== undefined && bytes.length > 0) {
      this.put(this.odd | ((bytes[0] ?? 0) << 8), shape);
      this.odd = undefined;
      at = 1;
    }
    for (; at + 1 < bytes.length; at += 2) this.put((bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8), shape);
    if (at < bytes.length) this.odd = bytes[at];
  }

  private put(word: number, shape: WavShape): void {
    const level = Math.abs((word << 16) >> 16) / 32768;
    const slot = Math.floor((this.samples * this.values.length * 2) / shape.data_bytes);
    if (slot < this.values.length && level > (this.values[slot] ?? 0)) this.values[slot] = level;
    this.samples += 1;
  }
}
