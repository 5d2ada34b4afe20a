/** Words and tables for a terminal: widths as the terminal counts them, wrapping, colours that vanish where nobody sees them. */
import stringWidth from "string-width";

export type Paint = (text: string) => string;
export const plain: Paint = (text) => text;

/** Text from outside (subjects, file names, answers) must not be able to move the cursor or to colour what it likes. */
export function clean(text: string): string {
  // oxlint-disable-next-line no-control-regex -- finding control characters is the point
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "?");
}

export function padEnd(text: string, width: number): string {
  return text + " ".repeat(Math.max(0, width - stringWidth(text)));
}
export function padStart(text: string, width: number): string {
  return " ".repeat(Math.max(0, width - stringWidth(text))) + text;
}

/** Breaks at spaces; a word that is longer than the line is broken where the line ends. */
export function wrap(text: string, width: number): string[] {
  if (!Number.isFinite(width) || stringWidth(text) <= width) return text.split("\n");
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (let word of paragraph.split(" ")) {
      const joined = line === "" ? word : `${line} ${word}`;
      if (stringWidth(joined) <= width) {
        line = joined;
        continue;
      }
      if (line !== "") lines.push(line);
      while (stringWidth(word) > width) {
        let cut = Math.max(1, width);
        while (cut > 1 && stringWidth(word.slice(0, cut)) > width) cut--;
        // Names break better after a dot, slash or dash than in the middle of a word.
        const nicer = Math.max(...["/", ".", "-", "_", ":", ","].map((mark) => word.lastIndexOf(mark, cut - 1) + 1));
        if (nicer > cut / 2) cut = nicer;
        lines.push(word.slice(0, cut));
        word = word.slice(cut);
      }
      line = word;
    }
    lines.push(line);
  }
  return lines;
}

/** A paragraph with every line indented; the first one by `first`, where a label stands before it. */
export function paragraph(text: string, width: number, indent = "", first = indent): string {
  return wrap(text, Math.max(20, width - stringWidth(indent)))
    .map((line, i) => (i === 0 ? first : indent) + line)
    .join("\n");
}

export interface Cell {
  readonly text: string;
  readonly paint?: Paint;
}
export interface Column<T> {
  readonly title: string;
  readonly value: (row: T) => string | Cell;
  readonly align?: "right";
  /** May be wrapped where the terminal is too narrow; with a larger weight it is wrapped earlier. */
  readonly flex?: boolean;
  /** Shown with `-o wide` and in CSV only. */
  readonly wide?: boolean;
}
export interface TableOptions {
  readonly width: number;
  readonly head?: Paint | null;
  readonly gap?: number;
  readonly indent?: string;
  /** A line of its own before row `i`. */
  readonly before?: (row: number, width: number) => string | null;
}

const cellOf = (value: string | Cell): Cell => (typeof value === "string" ? { text: value } : value);
const leastFlex = 14;

export function table<T>(rows: readonly T[], columns: readonly Column<T>[], options: TableOptions): string {
  const gap = " ".repeat(options.gap ?? 2);
  const indent = options.indent ?? "";
  const head = options.head === null ? null : (options.head ?? plain);
  const cells = rows.map((row) => columns.map((column) => cellOf(column.value(row))));
  const widths = columns.map((column, c) =>
    Math.max(
      head === null ? 0 : stringWidth(column.title),
      ...cells.map((row) => Math.max(...row[c]!.text.split("\n").map((line) => stringWidth(clean(line))))),
    ),
  );
  const fixed = stringWidth(indent) + gap.length * (columns.length - 1);
  let excess = fixed + widths.reduce((sum, width) => sum + width, 0) - options.width;
  // The widest column that may be wrapped gives way first, until another one is as wide.
  while (excess > 0) {
    const flexible = columns.flatMap((column, c) => (column.flex && widths[c]! > leastFlex ? [c] : []));
    if (flexible.length === 0) break;
    const widest = flexible.reduce((best, c) => (widths[c]! > widths[best]! ? c : best));
    const next = Math.max(leastFlex, ...flexible.filter((c) => c !== widest).map((c) => widths[c]!));
    const take = Math.max(1, Math.min(excess, widths[widest]! - next));
    widths[widest]! -= take;
    excess -= take;
  }
  const lines: string[] = [];
  const push = (parts: readonly Cell[]): void => {
    const wrapped = parts.map((cell, c) => wrap(clean(cell.text), columns[c]!.flex ? widths[c]! : Infinity));
    const height = Math.max(...wrapped.map((x) => x.length));
    for (let i = 0; i < height; i++) {
      const line = parts.map((cell, c) => {
        const text = wrapped[c]![i] ?? "";
        const padded = columns[c]!.align === "right" ? padStart(text, widths[c]!) : padEnd(text, widths[c]!);
        // Trailing blanks of the last column are cut before the colour goes on.
        return (cell.paint ?? plain)(c === parts.length - 1 && columns[c]!.align !== "right" ? text : padded);
      });
      lines.push((indent + line.join(gap)).trimEnd());
    }
  };
  if (head !== null) push(columns.map((column) => ({ text: column.title, paint: head })));
  const total = Math.min(options.width, fixed + widths.reduce((sum, width) => sum + width, 0));
  cells.forEach((row, i) => {
    const before = options.before?.(i, total) ?? null;
    if (before !== null) lines.push(before);
    push(row);
  });
  return lines.join("\n");
}

/** RFC 4180, with what a spreadsheet would run as a formula made harmless. */
export function csv<T>(rows: readonly T[], columns: readonly Column<T>[]): string {
  const quote = (value: string): string => {
    const safe = /^[=+\-@\t\r]/.test(value) && !/^-?\d+(\.\d+)?$/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [
    columns.map((column) => quote(column.title.toLowerCase())).join(","),
    ...rows.map((row) => columns.map((column) => quote(cellOf(column.value(row)).text)).join(",")),
  ].join("\r\n");
}

export const count = (n: number, one: string, many = `${one}s`): string =>
  `${n.toLocaleString("en-US")} ${n === 1 ? one : many}`;

/** `a`, `a and b`, `a, b and 3 more`. */
export function listed(names: readonly string[], most = 4): string {
  if (names.length === 0) return "none";
  if (names.length === 1) return names[0]!;
  if (names.length <= most) return `${names.slice(0, -1).join(", ")} and ${names.at(-1)!}`;
  return `${names.slice(0, most - 1).join(", ")} and ${names.length - most + 1} more`;
}
