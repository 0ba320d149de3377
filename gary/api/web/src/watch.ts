/** A task's events and samples as they come. Both begin again after a broken connection, until stopped. */

import { audioUrl, FINAL, Problem, type Api, type Task } from "./api";
import { Peaks } from "./wav";

const PEAKS = 1200;
const AGAIN_MS = 1000;

/**
 * Tells `onTask` of every change until the task is over. The browser reconnects by itself and says what it has seen
 * (Last-Event-ID); only where it gives up is the task asked for, which also tells why.
 */
export function watchTask(api: Api, id: string, onTask: (task: Task) => void, onTrouble: (error: unknown) => void): () => void {
  const events = new EventSource(`v1/tasks/${id}/events`);
  let timer: number | undefined;
  let stopped = false;
  const stop = (): void => {
    stopped = true;
    events.close();
    window.clearTimeout(timer);
  };
  const tell = (task: Task): void => {
    if (stopped) return;
    if (FINAL.has(task.state)) stop();
    onTask(task);
  };
  const ask = async (): Promise<void> => {
    try {
      tell(await api.task(id));
    } catch (error) {
      if (error instanceof Problem && error.status >= 400 && error.status < 500) {
        stop();
        onTrouble(error);
        return;
      }
    }
    if (!stopped) timer = window.setTimeout(() => void ask(), AGAIN_MS);
  };
  const onEvent = (event: MessageEvent<string>): void => tell(JSON.parse(event.data) as Task);
  events.addEventListener("state", onEvent);
  events.addEventListener("progress", onEvent);
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED && !stopped) void ask();
  });
  return stop;
}

/**
 * Reads a take's samples as they are made and tells how they look so far; of a task that is completed, at once.
 * A stream that breaks is read again from its beginning: another attempt may have begun the music anew.
 */
export function watchSamples(
  api: Api,
  id: string,
  take: number,
  onPeaks: (peaks: Peaks, whole: boolean) => void,
  onTrouble: (error: unknown) => void,
): () => void {
  const stopping = new AbortController();
  const read = async (): Promise<void> => {
    const peaks = new Peaks(PEAKS);
    const stream = await api.stream(audioUrl(id, take, { live: true }), stopping.signal);
    for await (const bytes of stream) {
      peaks.push(bytes);
      onPeaks(peaks, false);
    }
    onPeaks(peaks, true);
  };
  const readOn = async (): Promise<void> => {
    for (;;) {
      try {
        return await read();
      } catch (error) {
        if (stopping.signal.aborted) return;
        if (error instanceof Problem && error.status !== 0) return onTrouble(error);
        // the connection, ours or between the service and its database: the task's events tell if it is over
        await new Promise((resolve) => window.setTimeout(resolve, AGAIN_MS));
      }
    }
  };
  void readOn();
  return () => stopping.abort();
}
