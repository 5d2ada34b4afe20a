/** What every command is given, and how it is hung into the program. */
import type { Command } from "commander";
import type { App } from "../app.ts";
import type { Session } from "./session.ts";

export interface Context {
  readonly session: Session;
  readonly app: App;
}
/** Returns the exit code; nothing means 0. */
export type Action<O> = (cx: Context, options: O, ...args: string[]) => Promise<number | void>;

export interface Cli {
  readonly program: Command;
  /** Adds a command under `parent` (default: the program itself). `usage` has its name and arguments. */
  command(usage: string, summary: string, parent?: Command): Command;
  /** Ties the command to what it does. Arguments that may be given several times come spread. */
  does<O = Record<never, never>>(command: Command, action: Action<O>): Command;
}
