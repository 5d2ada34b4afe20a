/**
 * The last net under the rule that no secret is printed: every text that leaves a connector call (log lines, error messages, notes, probe
 * details) passes through a scrubber that knows the secrets which were opened for that call and those of the system's own settings.
 */
import type { Material } from "../connectors/secret.ts";
import { Secret } from "../connectors/secret.ts";

export interface Scrubber {
  learn(material: Material): void;
  learnText(value: string): void;
  /** Replaces every known secret, also in its usual encodings. */
  clean(text: string): string;
}

/** Shorter values would turn ordinary words into `[secret]` and tell more than they hide. */
const shortest = 6;
const shown = "[secret]";
const longestText = 2000;

export function createScrubber(): Scrubber {
  const needles = new Set<string>();
  function learnText(value: string): void {
    if (value.length < shortest) return;
    const bytes = Buffer.from(value, "utf8");
    for (const form of [
      value,
      encodeURIComponent(value),
      JSON.stringify(value).slice(1, -1),
      bytes.toString("base64").replace(/=+$/, ""),
      bytes.toString("base64url"),
      bytes.toString("hex"),
    ])
      needles.add(form);
  }
  return {
    learnText,
    learn(material) {
      const text = (material.kind === "secret" ? material.value : material.privateKey).reveal();
      if (material.kind === "secret") learnText(text);
      else {
        // Whoever prints a key prints it line by line: each line of the body gives it away.
        for (const line of text.split(/\r?\n/))
          if (line.length > 20 && !line.startsWith("-----")) needles.add(line.trim());
      }
    },
    clean(text) {
      let clean = text;
      // Longest first, so that a secret which contains another is replaced whole.
      for (const needle of [...needles].toSorted((a, b) => b.length - a.length))
        clean = clean.replaceAll(needle, shown);
      clean = clean
        .replace(/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g, shown)
        .replace(/\b([a-z][a-z0-9+.-]*:\/\/[^\s:/@]+):[^\s@/]+@/gi, `$1:${shown}@`);
      // Cut last: a secret that is cut in two would not be recognised.
      return clean.length > longestText ? `${clean.slice(0, longestText)}…` : clean;
    },
  };
}

/** Learns what looks secret in a system's or place's settings: wrapped secrets, passwords in URLs, and values under telling names. */
export function learnSettings(scrubber: Scrubber, settings: unknown, depth = 0): void {
  if (depth > 6 || settings === null || typeof settings !== "object") return;
  if (settings instanceof Secret) {
    scrubber.learnText(settings.reveal());
    return;
  }
  for (const [key, value] of Object.entries(settings)) {
    if (typeof value === "string") {
      if (/pass|secret|token|apikey|api_key|credential|privatekey/i.test(key)) scrubber.learnText(value);
      const inUrl = /^[a-z][a-z0-9+.-]*:\/\/[^\s:/@]*:([^\s@]+)@/i.exec(value);
      if (inUrl?.[1] !== undefined) {
        scrubber.learnText(inUrl[1]);
        try {
          scrubber.learnText(decodeURIComponent(inUrl[1]));
        } catch {
          // A stray percent sign: the raw form above is what could be printed.
        }
      }
    } else learnSettings(scrubber, value, depth + 1);
  }
}
