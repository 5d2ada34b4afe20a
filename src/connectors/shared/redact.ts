/** Takes known secrets out of text that comes from outside, such as a program's error output. */
import type { Secret } from "../secret.ts";

const marker = "[secret]";

/** Replaces the secrets, and their usual encodings, wherever they occur. Values below four characters would blacken ordinary words. */
export function redact(text: string, secrets: readonly Secret[]): string {
  let clean = text;
  for (const secret of secrets) {
    const value = secret.reveal();
    const bytes = secret.bytes();
    const forms = [
      value,
      JSON.stringify(value).slice(1, -1),
      encodeURIComponent(value),
      bytes.toString("base64"),
      bytes.toString("base64url"),
      bytes.toString("hex"),
    ];
    // A key that is echoed line by line is recognised by its lines.
    if (value.includes("\n"))
      forms.push(...value.split(/\r?\n/).filter((line) => line.length >= 16 && !line.startsWith("-----")));
    for (const form of forms.sort((a, b) => b.length - a.length)) {
      if (form.length >= 4) clean = clean.replaceAll(form, marker);
    }
  }
  return clean;
}

/** The first line that says something, without control characters, short enough for a message. */
export function firstLine(text: string, mostChars = 200): string {
  // Terminal escapes in a program's output must not reach the reader's terminal.
  const lines = text.replaceAll(/\p{Cc}\[[0-9;?]*[ -/]*[@-~]/gu, "").split(/\r?\n/);
  const line = lines.map((one) => one.replaceAll(/[\p{Cc}\s]+/gu, " ").trim()).find((one) => one !== "") ?? "";
  return line.length > mostChars ? `${line.slice(0, mostChars - 1)}…` : line;
}
