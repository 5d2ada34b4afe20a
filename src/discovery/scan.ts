/**
 * Scans folders, files and TLS endpoints for certificates and keys. Results stream out as they are found, and nothing is held back here, so that
 * memory does not grow with what is scanned. What cannot be read is an event like any other and stops nothing.
 */
import { close as closeFile, constants, fstat, open as openFile, read as readFile } from "node:fs";
import { extname } from "node:path";
import type { Secret } from "../connectors/secret.ts";
import { readBundle } from "./bundle.ts";
import { certificateItem } from "./certificate.ts";
import { openChannel, type Channel } from "./channel.ts";
import { Malformed } from "./der.ts";
import type { Found, FoundKind, ParsedItem, ScanEvent, ScanProblem, ScanSummary } from "./found.ts";
import type { Heavy } from "./parse.ts";
import type { ParsePool } from "./pool.ts";
import { endpointsOf, readTarget, TargetError, type EndpointTarget, type Reach, type Target } from "./targets.ts";
import { reasonOf, walk } from "./walk.ts";

export interface ScanOptions {
  /** Milliseconds since the epoch; the clock is only used for the summary. */
  readonly now: () => number;
  /** Files that are larger are not read; default 64 MiB. */
  readonly maxSizeBytes?: number;
  /** Files read at once; default 8. */
  readonly fileConcurrency?: number;
  /** Endpoints asked at once; default 64. */
  readonly endpointConcurrency?: number;
  /** Connections per address; default 3 for a named host and 1 in a range. */
  readonly connections?: number;
  /** Per connection, from look-up to handshake; default 5,000. */
  readonly timeoutMs?: number;
  /** What one container (PKCS#12, encrypted key) may take; default 1,000. */
  readonly parseTimeoutMs?: number;
  /** Tried on encrypted keys and PKCS#12 files, after the empty one. */
  readonly passwords?: readonly Secret[];
  /** Server name for the handshake, where it is not the host's. */
  readonly serverName?: string;
  /** Which addresses may be connected to; default `operator`. */
  readonly reach?: Reach;
  /** Connections that a single range may stand for; default 4,096. */
  readonly maxAddresses?: number;
  readonly signal?: AbortSignal;
}

const headBytes = 64 * 1024;
const largeBytes = 1024 * 1024;
const chunkItems = 512;
const maxProblemsPerFile = 20;
const filesPerProgress = 250;
const endpointsPerProgress = 25;

interface Counts {
  files: number;
  bytes: number;
  otherFiles: number;
  skipped: number;
  endpoints: number;
  items: number;
  problems: number;
  readonly byKind: Partial<Record<FoundKind, number>>;
  readonly problemsByCode: Partial<Record<ScanProblem["code"], number>>;
}

/** What the parts of one scan share. */
interface Run {
  readonly options: ScanOptions;
  readonly maxSizeBytes: number;
  readonly channel: Channel<ScanEvent>;
  readonly counts: Counts;
  /** Opened for the first container. */
  pool: Promise<ParsePool> | undefined;
  readonly passwords: readonly string[];
  /** Large files are read one after the other, whatever the concurrency: that bounds memory. */
  large: Promise<void>;
  stopped: boolean;
}

/**
 * Scans the sources in the order given, files before endpoints. Ends with one `done` event, also when every source was bad. Leaving the loop
 * early, or aborting the signal, stops all work and closes all threads and connections; an aborted scan still ends with `done`.
 */
export async function* scan(sources: readonly string[], options: ScanOptions): AsyncGenerator<ScanEvent, void, void> {
  const startedMs = options.now();
  const run: Run = {
    options,
    maxSizeBytes: options.maxSizeBytes ?? 64 * 1024 * 1024,
    channel: openChannel(256),
    counts: {
      files: 0,
      bytes: 0,
      otherFiles: 0,
      skipped: 0,
      endpoints: 0,
      items: 0,
      problems: 0,
      byKind: {},
      problemsByCode: {},
    },
    pool: undefined,
    passwords: (options.passwords ?? []).map((password) => password.reveal()),
    large: Promise.resolve(),
    stopped: false,
  };
  const work = scanAll(run, sources).then(
    () => run.channel.end(),
    (error: unknown) => run.channel.fail(error),
  );
  try {
    yield* run.channel;
    const summary: ScanSummary = { ...run.counts, startedMs, finishedMs: options.now() };
    yield { type: "done", summary };
  } finally {
    run.stopped = true;
    await (await run.pool)?.close();
    await work;
  }
}

async function scanAll(run: Run, sources: readonly string[]): Promise<void> {
  const targets: { source: string; target: Target }[] = [];
  for (const source of sources) {
    try {
      for (const target of await readTarget(source, run.options.maxAddresses ?? 4096)) targets.push({ source, target });
    } catch (error) {
      const text = error instanceof TargetError ? error.message : `"${source}" cannot be scanned: ${reasonOf(error)}`;
      await report(run, { source, path: source, code: "usage", text });
    }
  }
  await concurrently(files(run, targets), run.options.fileConcurrency ?? 8, () => {
    const head = Buffer.allocUnsafeSlow(headBytes);
    return ({ source, path }) => scanFile(run, source, path, head);
  });
  await concurrently(endpoints(targets), run.options.endpointConcurrency ?? 64, () => (one) => scanEndpoint(run, one));
}

function isOver(run: Run): boolean {
  return run.stopped || run.options.signal?.aborted === true;
}

/** Several loops over one source of tasks. `start` gives each loop its own state. */
async function concurrently<T>(
  tasks: AsyncGenerator<T>,
  width: number,
  start: () => (task: T) => Promise<void>,
): Promise<void> {
  async function loop(): Promise<void> {
    const work = start();
    for (;;) {
      const next = await tasks.next();
      if (next.done === true) return;
      await work(next.value);
    }
  }
  await Promise.all(Array.from({ length: width }, loop));
}

async function report(run: Run, problem: ScanProblem): Promise<void> {
  run.counts.problems++;
  run.counts.problemsByCode[problem.code] = (run.counts.problemsByCode[problem.code] ?? 0) + 1;
  await run.channel.push({ type: "problem", problem });
}

async function deliver(run: Run, items: readonly Found[]): Promise<void> {
  const { counts } = run;
  counts.items += items.length;
  for (const { kind } of items) counts.byKind[kind] = (counts.byKind[kind] ?? 0) + 1;
  await run.channel.push({ type: "found", items });
}

async function progress(run: Run, at: string): Promise<void> {
  const { files, endpoints, items } = run.counts;
  await run.channel.push({ type: "progress", files, endpoints, items, at });
}

interface FileTask {
  readonly source: string;
  readonly path: string;
}

async function* files(run: Run, targets: readonly { source: string; target: Target }[]): AsyncGenerator<FileTask> {
  for (const { source, target } of targets) {
    if (target.kind !== "path") continue;
    for await (const seen of walk(target.path)) {
      if (isOver(run)) return;
      if (seen.kind === "file") yield { source, path: seen.path };
      else if (seen.kind === "skipped") run.counts.skipped++;
      else await report(run, { source, path: seen.path, code: "unreadable", text: `It cannot be read: ${seen.why}.` });
    }
  }
}

async function scanFile(run: Run, source: string, path: string, head: Buffer): Promise<void> {
  if (isOver(run)) return;
  let descriptor: number | undefined;
  try {
    descriptor = await open(path);
    const length = await read(descriptor, head, 0, headBytes);
    run.counts.files++;
    if (length < headBytes) {
      run.counts.bytes += length;
      await scanBytes(run, source, path, head.subarray(0, length));
    } else {
      await scanLong(run, source, path, descriptor, head);
    }
  } catch (error) {
    await report(run, { source, path, code: "unreadable", text: `It cannot be read: ${reasonOf(error)}.` });
  } finally {
    if (descriptor !== undefined) await close(descriptor);
  }
  if (run.counts.files % filesPerProgress === 0) await progress(run, path);
}

/** A file that is longer than its first part: read on only when that part can be the start of something of ours. */
async function scanLong(run: Run, source: string, path: string, descriptor: number, head: Buffer): Promise<void> {
  const size = await sizeOf(descriptor);
  run.counts.bytes += size;
  if (!isWorthReading(head)) {
    run.counts.otherFiles++;
    return;
  }
  if (size > run.maxSizeBytes) {
    if (head.includes("-----BEGIN ") || head[0] === 0x30 || telling.test(extname(path))) {
      const text = `It has ${size} bytes, more than the ${run.maxSizeBytes} that are read of one file; raise the limit to read it.`;
      await report(run, { source, path, code: "refused", text });
    } else {
      run.counts.otherFiles++;
    }
    return;
  }
  const turn = run.large;
  let done: () => void = () => undefined;
  if (size > largeBytes) {
    run.large = new Promise((resolve) => {
      done = resolve;
    });
    await turn;
  }
  try {
    const bytes = Buffer.allocUnsafeSlow(size);
    head.copy(bytes);
    let at = headBytes;
    while (at < size) {
      const length = await read(descriptor, bytes, at, size - at);
      if (length === 0) break;
      at += length;
    }
    await scanBytes(run, source, path, bytes.subarray(0, Math.max(at, headBytes)));
  } finally {
    done();
  }
}

const telling = /^\.(pem|crt|cer|der|key|p12|pfx|p7b|p7c|jks|jceks|csr|crl)$/i;

/** Text, ASN.1 or a Java keystore. Other binary files (pictures, databases, programs) are not read to their end. */
function isWorthReading(head: Buffer): boolean {
  const magic = head.readUInt32BE(0);
  return head[0] === 0x30 || magic === 0xfeedfeed || magic === 0xcececece || head.subarray(0, 8192).indexOf(0) === -1;
}

/** Parses one file's bytes and wipes them, because they may hold private keys. */
async function scanBytes(run: Run, source: string, path: string, bytes: Buffer): Promise<void> {
  const place = { source, path };
  let offset = 0;
  try {
    let count = 0;
    while (bytes.length > 0) {
      const items: Found[] = [];
      offset = readBundle(bytes, offset, count, place, items, chunkItems);
      if (items.length === 0) break;
      count += items.length;
      await deliver(run, items);
      if (items.length < chunkItems) break;
      await breathe();
      if (isOver(run)) return;
    }
    if (offset < bytes.length || count === 0) await scanRest(run, place, bytes, { items: count, offset });
  } finally {
    // Where everything was read as certificates, there is nothing to hide.
    if (offset < bytes.length) bytes.fill(0);
  }
}

/** A bundle of any size must not hold up what else runs in this process. */
function breathe(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

async function scanRest(
  run: Run,
  place: FileTask,
  bytes: Buffer,
  after: { readonly items: number; readonly offset: number },
): Promise<void> {
  const { parse } = await import("./parse.ts");
  let items: Found[] = [];
  let any = after.items > 0;
  let problems = 0;
  for (const outcome of parse(bytes, { name: place.path, hasPasswords: run.passwords.length > 0, after })) {
    any = true;
    if (outcome.kind === "heavy") {
      for (const item of await openContainer(run, place.source, place.path, outcome))
        items.push(Object.assign(item, place));
    } else if (outcome.kind === "problem") {
      problems++;
      if (problems <= maxProblemsPerFile)
        await report(run, { ...place, code: outcome.code, text: sentence(outcome.text) });
    } else {
      items.push(Object.assign(outcome, place));
      if (items.length >= chunkItems) {
        await deliver(run, items);
        items = [];
        await breathe();
        if (isOver(run)) break;
      }
    }
  }
  if (problems > maxProblemsPerFile) {
    await report(run, {
      ...place,
      code: "malformed",
      text: `It has ${problems - maxProblemsPerFile} more problems of this kind.`,
    });
  }
  if (items.length > 0) await deliver(run, items);
  if (!any) run.counts.otherFiles++;
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

// What only some scans need is loaded when it is needed: TLS alone takes as long to load as a thousand files to read.
async function openPool(limitMs: number): Promise<ParsePool> {
  const { openParsePool } = await import("./pool.ts");
  return openParsePool(limitMs);
}

/** Has a worker open a container. What stays shut is still an item, with the reason. */
async function openContainer(
  run: Run,
  source: string,
  path: string,
  { job, otherwise }: Heavy,
): Promise<readonly ParsedItem[]> {
  run.pool ??= openPool(run.options.parseTimeoutMs ?? 1000);
  const result = await (await run.pool).run(job, run.passwords);
  const [first = "it cannot be read"] = result.problems;
  // A container that needs another password is a finding and no fault of the file.
  const locked = otherwise !== null && !result.refused && /password/.test(first);
  if (result.items.length === 0 && locked) return [{ ...otherwise, problems: [sentence(first)] }];
  for (const text of result.problems.slice(0, maxProblemsPerFile)) {
    await report(run, { source, path, code: result.refused ? "refused" : "malformed", text: sentence(text) });
  }
  return result.items;
}

function open(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    // Without blocking: a pipe that took a file's place between listing and opening must not hold the scan.
    openFile(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY, (error, descriptor) =>
      error ? reject(error) : resolve(descriptor),
    );
  });
}
function read(descriptor: number, into: Buffer, at: number, length: number): Promise<number> {
  return new Promise((resolve, reject) => {
    readFile(descriptor, into, at, length, null, (error, count) => (error ? reject(error) : resolve(count)));
  });
}
function sizeOf(descriptor: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fstat(descriptor, (error, found) => (error ? reject(error) : resolve(found.size)));
  });
}
function close(descriptor: number): Promise<void> {
  return new Promise((resolve) => {
    closeFile(descriptor, () => resolve());
  });
}

interface EndpointTask {
  readonly source: string;
  readonly target: EndpointTarget;
  readonly ofRange: boolean;
}

async function* endpoints(targets: readonly { source: string; target: Target }[]): AsyncGenerator<EndpointTask> {
  for (const { source, target } of targets) {
    if (target.kind === "endpoint") {
      yield { source, target, ofRange: false };
    } else if (target.kind === "range") {
      for (const one of endpointsOf(target)) yield { source, target: one, ofRange: true };
    }
  }
}

async function scanEndpoint(run: Run, { source, target, ofRange }: EndpointTask): Promise<void> {
  if (isOver(run)) return;
  const { EndpointError, probe } = await import("./endpoint.ts");
  const { options } = run;
  const host = target.host.includes(":") ? `[${target.host}]` : target.host;
  const name = `${host}:${target.port}`;
  const answers = probe(target, {
    timeoutMs: options.timeoutMs ?? 5000,
    connections: options.connections ?? (ofRange ? 1 : 3),
    serverName: options.serverName,
    reach: options.reach ?? "operator",
    signal: options.signal,
  });
  let addresses = 0;
  for await (const answer of answers) {
    if (answer instanceof EndpointError) {
      // In a range most addresses are empty; that is no problem of anybody's.
      if (ofRange && answer.code === "unreachable") continue;
      await report(run, { source, path: name, code: answer.code, text: sentence(`${name}: ${answer.message}`) });
      continue;
    }
    const path = answer.address === target.host ? name : `${name} (${answer.address})`;
    addresses++;
    const items: Found[] = [];
    for (const [index, der] of answer.chain.entries()) {
      try {
        items.push({ ...certificateItem(der, 0, der.length, "tls", index), source, path });
      } catch (error) {
        const why = error instanceof Malformed ? error.message : "it cannot be read";
        await report(run, {
          source,
          path,
          code: "malformed",
          text: sentence(`certificate ${index + 1} of the chain: ${why}`),
        });
      }
    }
    await deliver(run, items);
  }
  if (addresses > 0 || !ofRange) run.counts.endpoints++;
  if (run.counts.endpoints % endpointsPerProgress === 0) await progress(run, name);
}
