/** The service's /v1 as typed calls. Every failure is a `Problem`; nothing here knows the page. */

export type State = "queued" | "fetching" | "generating" | "encoding" | "completed" | "failed" | "cancelled";
export type Format = "wav" | "flac" | "mp3" | "opus";

export type Source =
  | { url: string; start_s?: number }
  | { upload: true; start_s?: number }
  | { task: string; take?: number; start_s?: number; end_s?: number | null };

/** What both a new task and a continuation say. */
export interface Wish {
  model?: string;
  description?: string;
  prompt?: { length_s: number; side?: "cursor" | "head" | "tail" };
  length: { bars: number; tempo_bpm?: number };
  sampling?: { cfg_coef?: number; temperature?: number };
  seed?: number;
  takes: number;
}

export interface Stretch {
  take: number;
  start_s?: number;
  end_s?: number;
}

export interface Music {
  sample_rate_hz: number;
  channels: number;
  source_s: number;
  duration_s: number;
  prompt_s: number;
  tempo_bpm: number | null;
  tempo_assumed: boolean;
  bars: number | null;
}

export interface Task {
  id: string;
  state: State;
  queue: { position: number; eta_s: number | null } | null;
  progress: { fraction: number; frames_done: number; frames_total: number; eta_s: number | null } | null;
  error: { code: string; message: string } | null;
  request: { source: Record<string, unknown>; takes?: number; length?: { bars?: number | null } };
  model: string;
  seed: number;
  takes: { take: number; seed: number; duration_s: number }[];
  music: Music | null;
  parent: string | null;
}

export interface Health {
  status: "live" | "down";
  mongodb: "live" | "down";
  pytorch: "live" | "down";
  ray: "live" | "down";
  queue: { queued: number; working: number } | null;
}

export interface Model {
  name: string;
  size: string;
  description: string | null;
  licence: string | null;
  replicas_ready: number;
}

export interface Models {
  default: string;
  models: Model[];
}

export const FINAL: ReadonlySet<State> = new Set<State>(["completed", "failed", "cancelled"]);

/** An answer that is an error, or no answer (code `network`, status 0). */
export class Problem extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

/** Calls to the service that this page came from; `key` is asked for at each, as it may be entered late. */
export class Api {
  constructor(private readonly key: () => string | null) {}

  create(source: Source, wish: Wish, file?: File): Promise<Task> {
    const task = JSON.stringify({ source, ...wish });
    if (!file) return this.post("v1/tasks", task, { "Content-Type": "application/json" });
    const form = new FormData();
    form.append("task", new Blob([task], { type: "application/json" }));
    form.append("file", file, file.name);
    return this.post("v1/tasks", form, {});
  }

  goOn(id: string, wish: Wish, stretch: Stretch): Promise<Task> {
    const body = JSON.stringify({ ...wish, ...stretch });
    return this.post(`v1/tasks/${id}/continue`, body, { "Content-Type": "application/json" });
  }

  async task(id: string): Promise<Task> {
    return (await (await this.ask(`v1/tasks/${id}`)).json()) as Task;
  }

  async cancel(id: string): Promise<void> {
    await this.ask(`v1/tasks/${id}`, { method: "DELETE" });
  }

  async models(): Promise<Models> {
    return (await (await this.ask("v1/models")).json()) as Models;
  }

  /** Where the service stands; one that is down says so with 503, which is no error here. */
  async health(): Promise<Health> {
    return (await (await this.ask("health", {}, [503])).json()) as Health;
  }

  /** The bytes as they come; the reader stops them by `signal`. */
  async stream(url: string, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    const answer = await this.ask(url, { signal });
    if (!answer.body) throw new Problem("network", "The answer has no body.", answer.status);
    return answer.body;
  }

  async bytes(url: string): Promise<Blob> {
    return (await this.ask(url)).blob();
  }

  async crop(clip: Blob, start_s: number, end_s: number, format: Format): Promise<Blob> {
    const query = new URLSearchParams({ start_s: String(start_s), end_s: String(end_s), format });
    const headers = { "Content-Type": "application/octet-stream" };
    return (await this.ask(`v1/audio/crop?${query}`, { method: "POST", body: clip, headers })).blob();
  }

  private async post(path: string, body: BodyInit, headers: Record<string, string>): Promise<Task> {
    const once = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"));
    const init = { method: "POST", body, headers: { ...headers, "Idempotency-Key": once.join("") } };
    return (await (await this.ask(path, init)).json()) as Task;
  }

  /** Raises Problem for every answer that is neither 2xx nor among `welcome`. */
  private async ask(path: string, init: RequestInit = {}, welcome: readonly number[] = []): Promise<Response> {
    const headers = new Headers(init.headers);
    const key = this.key();
    if (key) headers.set("Authorization", `Bearer ${key}`);
    let answer: Response;
    try {
      answer = await fetch(path, { ...init, headers });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new Problem("network", "The service does not answer.", 0);
    }
    if (answer.ok || welcome.includes(answer.status)) return answer;
    throw await problemOf(answer);
  }
}

interface ProblemBody {
  code?: string;
  detail?: string;
  error?: string;
  title?: string;
  errors?: { field: string; message: string }[];
}

async function problemOf(answer: Response): Promise<Problem> {
  const text = await answer.text();
  let body: ProblemBody = {};
  if (/\bjson\b/.test(answer.headers.get("Content-Type") ?? "")) body = JSON.parse(text) as ProblemBody;
  const fields = body.errors?.map(({ field, message }) => `${field}: ${message}`).join("; ");
  const sentence = fields || body.detail || body.error || body.title || `The service answered ${answer.status}.`;
  return new Problem(body.code ?? `http_${answer.status}`, sentence, answer.status);
}

/** Where a take's audio is; `live` plays it while it is made. */
export function audioUrl(id: string, take: number, options: { live?: boolean; format?: Format } = {}): string {
  const query = new URLSearchParams({ take: String(take) });
  if (options.live) query.set("live", "1");
  else query.set("format", options.format ?? "wav");
  return `v1/tasks/${id}/audio?${query}`;
}
