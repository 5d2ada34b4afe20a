/** Completion scripts, made from the commands themselves, so that they cannot fall behind. */
import type { Command } from "commander";
import { Problem } from "../core/problem.ts";

export const shells = ["bash", "zsh", "fish"] as const;

interface Entry {
  readonly path: string;
  readonly names: readonly string[];
  readonly options: readonly string[];
  readonly summaries: Readonly<Record<string, string>>;
  /** The first argument is the name of a credential. */
  readonly takesCredential: boolean;
}

const visible = (command: Command): readonly Command[] =>
  command.commands.filter((each) => !(each as Command & { _hidden?: boolean })._hidden);

function* entries(command: Command, path: readonly string[], globals: readonly string[]): Generator<Entry> {
  const children = visible(command);
  const argument = command.registeredArguments[0]?.name();
  yield {
    path: path.join(" "),
    names: children.map((each) => each.name()),
    options: [
      ...command.options.filter((option) => option.long !== undefined).map((option) => option.long!),
      ...(path.length === 0 ? [] : globals),
    ],
    summaries: Object.fromEntries(children.map((each) => [each.name(), each.summary()])),
    takesCredential: argument === "name",
  };
  for (const each of children) yield* entries(each, [...path, each.name()], globals);
}

export function completionScript(shell: string, program: Command): string {
  const globals = program.options.flatMap((option) => (option.long === undefined ? [] : [option.long]));
  const all = [...entries(program, [], [...globals, "--help"])];
  switch (shell) {
    case "bash":
      return bash(all);
    case "zsh":
      return zsh(all);
    case "fish":
      return fish(all);
    default:
      throw new Problem("usage", `There is no completion for ${shell}.`, {
        next: `Write keyroll completion ${shells.join(", ")}.`,
      });
  }
}

function bash(all: readonly Entry[]): string {
  const cases = all.map(
    (entry) =>
      `    "${entry.path}") words="${entry.names.join(" ")}"; options="${entry.options.join(" ")}"; names=${entry.takesCredential ? "1" : "0"} ;;`,
  );
  return `# Put into ~/.bashrc:  eval "$(keyroll completion bash)"
_keyroll() {
  local current="\${COMP_WORDS[COMP_CWORD]}" path="" words="" options="" names=0 i word
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="\${COMP_WORDS[i]}"
    case "$word" in -*) continue ;; esac
    case " ${all.flatMap((entry) => entry.names).join(" ")} " in *" $word "*) path="\${path:+$path }$word" ;; esac
  done
  case "$path" in
${cases.join("\n")}
  esac
  if [[ "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  else
    [[ "$names" == 1 ]] && words="$words $(keyroll complete-names credentials 2>/dev/null)"
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [[ \${#COMPREPLY[@]} == 0 ]] && COMPREPLY=($(compgen -f -- "$current"))
  fi
}
complete -F _keyroll keyroll`;
}

const quote = (text: string): string => text.replaceAll("'", "'\\''");

function zsh(all: readonly Entry[]): string {
  const cases = all.map((entry) => {
    const words = entry.names
      .map((name) => `'${name}:${quote(entry.summaries[name] ?? "").replaceAll(":", "\\:")}'`)
      .join(" ");
    return `    "${entry.path}") words=(${words}); options=(${entry.options.join(" ")}); names=${entry.takesCredential ? "1" : "0"} ;;`;
  });
  return `#compdef keyroll
# Put into ~/.zshrc, after compinit:  eval "$(keyroll completion zsh)"
_keyroll() {
  local path_="" word names=0 i
  local -a words options
  local -a known=(${all.flatMap((entry) => entry.names).join(" ")})
  local -a typed=("\${(@)words[2,CURRENT-1]}")
  local -a line=("\${(@)\${(z)BUFFER}}")
  for word in "\${(@)line[2,-1]}"; do
    [[ "$word" == -* ]] && continue
    [[ -n "\${known[(r)$word]}" && "$word" != "$PREFIX" ]] && path_="\${path_:+$path_ }$word"
  done
  case "$path_" in
${cases.join("\n")}
  esac
  if [[ "$PREFIX" == -* ]]; then
    compadd -- $options
  else
    (( \${#words} )) && _describe command words
    (( names )) && compadd -- \${(f)"$(keyroll complete-names credentials 2>/dev/null)"}
    (( \${#words} || names )) || _files
  fi
}
compdef _keyroll keyroll`;
}

function fish(all: readonly Entry[]): string {
  const lines = [
    "# Put into ~/.config/fish/completions/keyroll.fish:  keyroll completion fish > ~/.config/fish/completions/keyroll.fish",
    "function __keyroll_at",
    "  set -l path",
    `  set -l known ${[...new Set(all.flatMap((entry) => entry.names))].join(" ")}`,
    "  for word in (commandline -opc)[2..]",
    "    string match -q -- '-*' $word; and continue",
    "    contains -- $word $known; and set -a path $word",
    "  end",
    '  test "$path" = "$argv"',
    "end",
    "complete -c keyroll -f",
  ];
  for (const entry of all) {
    const condition = `-n '__keyroll_at ${entry.path}'`;
    for (const name of entry.names)
      lines.push(`complete -c keyroll ${condition} -a ${name} -d '${quote(entry.summaries[name] ?? "")}'`);
    for (const option of entry.options) lines.push(`complete -c keyroll ${condition} -l ${option.slice(2)}`);
    if (entry.takesCredential)
      lines.push(`complete -c keyroll ${condition} -a '(keyroll complete-names credentials 2>/dev/null)'`);
    if (entry.names.length === 0 && !entry.takesCredential) lines.push(`complete -c keyroll ${condition} -F`);
  }
  return lines.join("\n");
}
