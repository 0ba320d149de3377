/** Errors in words: what happened, and what to do about it. */

import { Problem } from "./api";
import { box, button, byId, write } from "./dom";
import { remedy } from "./words";

export class Trouble {
  private readonly panel = box("trouble");

  constructor() {
    button("trouble-close").addEventListener("click", () => this.clear());
  }

  say(what: string, todo: string): void {
    write(box("trouble-what"), what);
    write(box("trouble-do"), todo);
    this.panel.hidden = false;
  }

  clear(): void {
    this.panel.hidden = true;
  }

  /** Shows a problem; anything else is a bug of the page and goes on to the console. */
  show(error: unknown): void {
    if (!(error instanceof Problem)) throw error;
    const serversFault = error.status >= 500 ? "Try again in a moment." : "";
    this.say(sentence(error.message), remedy(error.code) || serversFault);
  }

  /** Asks for the key that the service wants; resolves once one was entered, null where it was not. */
  async askForKey(): Promise<string | null> {
    const dialog = byId("key-dialog", HTMLDialogElement);
    const field = byId("key", HTMLInputElement);
    field.value = "";
    dialog.returnValue = "";
    if (!dialog.open) dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    return field.value.trim() || null;
  }
}

/** With a capital and a full stop, as sentences of the service come without. */
export function sentence(text: string): string {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
