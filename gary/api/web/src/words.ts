/** Times and errors in words. Knows neither the page nor the network. */

/** Seconds of `83`, `1:23`, `1:02:03` or `1m23s`; undefined where it is none of these. */
export function parseTime(text: string): number | undefined {
  const trimmed = text.trim();
  const units = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?$/i.exec(trimmed);
  if (trimmed && units) return Number(units[1] ?? 0) * 3600 + Number(units[2] ?? 0) * 60 + Number(units[3] ?? 0);
  const parts = trimmed.split(":");
  if (parts.length > 3 || !parts.every((part, i) => (i < parts.length - 1 ? /^\d+$/ : /^\d+(\.\d*)?$/).test(part))) {
    return undefined;
  }
  return parts.reduce((total_s, part) => total_s * 60 + Number(part), 0);
}

/** `1:23`, with tenths where asked for. */
export function formatTime(time_s: number, tenths = false): string {
  const units = tenths ? Math.round(time_s * 10) / 10 : Math.floor(time_s + 1e-6);
  const minutes = Math.floor(units / 60);
  const rest = units - minutes * 60;
  return `${minutes}:${tenths ? rest.toFixed(1).padStart(4, "0") : String(rest).padStart(2, "0")}`;
}

/** Where a link itself says that it starts (`?t=83`, `&start=1m23s`). */
export function timeOfLink(link: string): number | undefined {
  if (!URL.canParse(link)) return undefined;
  const url = new URL(link);
  const given = url.searchParams.get("t") ?? url.searchParams.get("start") ?? /[#&]t=([^&]+)/.exec(url.hash)?.[1];
  return given ? parseTime(given) : undefined;
}

export function formatLeft(eta_s: number | null | undefined): string {
  if (eta_s === null || eta_s === undefined) return "";
  if (eta_s < 1.5) return "a moment left";
  return eta_s < 90 ? `about ${Math.round(eta_s)} s left` : `about ${Math.round(eta_s / 60)} min left`;
}

export function formatBytes(size_bytes: number): string {
  return size_bytes < 1e6 ? `${Math.max(1, Math.round(size_bytes / 1e3))} kB` : `${(size_bytes / 1e6).toFixed(1)} MB`;
}

const REMEDIES: Record<string, string> = {
  age: "Choose another song, or drop a file.",
  attempts_exhausted: "Press Play on once more; if it fails again, try another model.",
  bot_check: "Wait a while, or drop the song as a file.",
  database_unavailable: "It comes back by itself most times: try again in a moment.",
  device_failed: "Try again in a moment.",
  geo: "Choose another song, or drop a file.",
  has_unfinished_children: "Wait for what goes on from it, or cancel that first.",
  internal: "Try again; if it stays, another model may work.",
  live: "Choose a recording: what is live has no end to go on from.",
  model_away: "Try again in a minute, or choose another model.",
  network: "Look at your connection, then try again.",
  not_audio: "Choose another file: WAV, MP3, FLAC, Opus and M4A all work.",
  not_ready: "Wait until it is finished.",
  other_codec: "Choose the model that it was made with.",
  past_end: "Choose an earlier start.",
  private: "Choose a public song, or drop a file.",
  queue_full: "Many are playing just now: try again in a minute.",
  rate_limited: "Wait a little, then try again.",
  removed: "Choose another song, or drop a file.",
  source_gone: "Start again from a link or a file.",
  timeout: "Try again, or drop the song as a file.",
  too_large: "Choose a smaller file.",
  too_long: "Choose something shorter.",
  unauthorized: "Enter another key.",
  unavailable: "Try again in a moment.",
  unknown_model: "Choose another model under More.",
  unknown_task: "It has expired or was deleted: start again.",
  unsupported: "Links to YouTube and SoundCloud work; anything else can be dropped as a file.",
  unsupported_url: "Any other music can be dropped as a file.",
  upstream: "Try again in a moment, or drop the song as a file.",
};

/** What a person can do about an error with this code; nothing where the service's own sentence says it. */
export function remedy(code: string): string {
  return REMEDIES[code] ?? "";
}
