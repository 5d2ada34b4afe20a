// Keyroll runs TypeScript directly in development and needs Node's own type stripping: 22.18 is the first release that has it
// unflagged. This file is plain JavaScript that any Node can parse, so that an old Node gets a sentence instead of a stack trace.
const [major, minor] = process.versions.node.split(".").map(Number);
const tooOld = major < 22 || (major === 22 && minor < 18);
// During installation the machine's own Node runs; npm scripts afterwards use the `node` package of node_modules/.bin.
if (tooOld && !process.argv.includes("--install")) {
  process.stderr.write(
    `keyroll needs Node.js 22.18 or newer, and this is ${process.versions.node} (${process.execPath}).\n` +
      "Next: in a clone, run it through npm (npm start, npm test): `npm ci` brings Node 24 along.\n" +
      "If you installed with --ignore-scripts, run `npm rebuild node` once.\n",
  );
  process.exit(1);
}
