/** What this browser remembers of its reader: the theme, and whether single keys do something (WCAG 2.1.4). */
import { useSyncExternalStore } from "react";

const names = { theme: "keyroll.theme", keys: "keyroll.keys" } as const;
type Name = keyof typeof names;
const listeners = new Set<() => void>();

function get(name: Name): string | null {
  try {
    return localStorage.getItem(names[name]);
  } catch {
    // Storage may be forbidden; then nothing is remembered.
    return null;
  }
}

export function setPreference(name: Name, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(names[name]);
    else localStorage.setItem(names[name], value);
  } catch {
    // As above.
  }
  applyTheme();
  for (const listener of listeners) listener();
}

export function usePreference(name: Name): string | null {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => get(name),
  );
}

export const keysAreOn = (): boolean => get("keys") !== "off";

export function applyTheme(): void {
  const theme = get("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset["theme"] = theme;
  else delete document.documentElement.dataset["theme"];
}
