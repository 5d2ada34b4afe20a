#!/usr/bin/env node
// Plain JavaScript that any Node can parse: the version is looked at before anything newer is loaded.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const [major, minor] = process.versions.node.split(".").map(Number);
const tooOld = major < 22 || (major === 22 && minor < 18);
// A clone brings its own Node along (the `node` package), so that it works on a machine with an old one.
const own = here(process.platform === "win32" ? "../node_modules/node/bin/node.exe" : "../node_modules/node/bin/node");

if (tooOld && existsSync(own) && process.env.KEYROLL_REEXEC !== "1") {
  const child = spawn(own, [here("./keyroll.js"), ...process.argv.slice(2)], {
    stdio: "inherit",
    env: { ...process.env, KEYROLL_REEXEC: "1" },
  });
  // A terminal sends Ctrl-C to both; a supervisor sends it to us alone. Either way the child decides when to end.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    });
  }
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code ?? 1);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
  child.on("error", (error) => {
    process.stderr.write(`keyroll: ${own} could not be started: ${error.message}\n`);
    process.exit(1);
  });
} else {
  // Ends the process with a sentence where Node is too old.
  await import("./check-node.js");
  // Compiled code is kept between calls (in the temporary folder), which halves the time to start.
  const { enableCompileCache } = await import("node:module");
  enableCompileCache?.();
  // Installed from a registry there is the build; in a clone the source runs as it is.
  const built = new URL("../dist/cli/main.js", import.meta.url);
  const main =
    existsSync(built) && !existsSync(new URL("../src/cli/main.ts", import.meta.url))
      ? built
      : new URL("../src/cli/main.ts", import.meta.url);
  const { start } = await import(main.href);
  await start();
}
