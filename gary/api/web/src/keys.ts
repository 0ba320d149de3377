/** The keyboard: single keys, as in any player, wherever no text is being written. */

import type { Stage } from "./stage";

interface Actions {
  goOn: () => void;
  undo: () => void;
}

export function installKeys(stage: Stage, actions: Actions): void {
  const keys: Record<string, () => void> = {
    " ": () => stage.toggle(),
    ArrowLeft: () => stage.step(-1),
    ArrowRight: () => stage.step(1),
    Home: () => stage.seek(0),
    Escape: () => stage.clearCrop(),
    c: actions.goOn,
    u: actions.undo,
    ...Object.fromEntries(Array.from({ length: 8 }, (_, take) => [String(take + 1), () => stage.setTake(take)])),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || stage.current === null || isTaken(event)) return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** Whether the focused control has a use of its own for the key. */
function isTaken({ target, key }: KeyboardEvent): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.closest("dialog, select, textarea, audio") || (target instanceof HTMLInputElement && target.type !== "checkbox")) return true;
  return key === " " && target.closest("button, summary, a, input") !== null;
}
