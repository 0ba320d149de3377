/** Takes, or parts of them, as files that the browser saves. */

import { audioUrl, type Api, type Format } from "./api";
import { select } from "./dom";
import type { Crop } from "./wave";

const KEEP_COPY_MS = 60_000;

/** Saves a take, or what is marked of it, in the format that is chosen. Raises Problem. */
export async function download(api: Api, id: string, take: number, crop: Crop | null): Promise<void> {
  const format = select("format").value as Format;
  const whole = await api.bytes(audioUrl(id, take, { format: crop ? "wav" : format }));
  const clip = crop ? await api.crop(whole, crop.start_s, crop.end_s, format) : whole;
  save(clip, `gary-${id.slice(-6)}-take${take + 1}.${format}`);
}

function save(clip: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(clip);
  link.download = name;
  link.click();
  // nothing tells when the browser has taken the bytes
  window.setTimeout(() => URL.revokeObjectURL(link.href), KEEP_COPY_MS);
}
