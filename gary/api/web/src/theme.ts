/** Light or dark: as the system says, until the button says otherwise. */

import { button } from "./dom";
import type { Session } from "./session";

export function installTheme(session: Session, onChange: () => void): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const toggle = button("theme");
  const apply = (): void => {
    const theme = session.theme ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset["theme"] = theme;
    toggle.ariaPressed = String(theme === "dark");
    onChange();
  };
  toggle.addEventListener("click", () => {
    const wanted = document.documentElement.dataset["theme"] === "dark" ? "light" : "dark";
    session.theme = wanted === (system.matches ? "dark" : "light") ? null : wanted;
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}
