/** A queue between many producers and one reader that holds the producers back when the reader is slow. */
export interface Channel<T> extends AsyncIterable<T> {
  /** Resolves when there is room for more. Values pushed after the reader has left are dropped. */
  push(value: T): Promise<void> | undefined;
  end(): void;
  fail(error: unknown): void;
}

export function openChannel<T>(room: number): Channel<T> {
  let queue: T[] = [];
  let ended = false;
  let left = false;
  let failure: { error: unknown } | undefined;
  let wakeReader: (() => void) | undefined;
  let writers: (() => void)[] = [];
  function wake(): void {
    wakeReader?.();
    wakeReader = undefined;
  }
  function release(): void {
    const waiting = writers;
    writers = [];
    for (const resume of waiting) resume();
  }
  return {
    push(value) {
      if (left) return undefined;
      queue.push(value);
      wake();
      if (queue.length < room) return undefined;
      return new Promise((resolve) => {
        writers.push(resolve);
      });
    },
    end() {
      ended = true;
      wake();
    },
    fail(error) {
      failure = { error };
      ended = true;
      wake();
    },
    async *[Symbol.asyncIterator]() {
      try {
        for (;;) {
          const batch = queue;
          queue = [];
          release();
          yield* batch;
          if (queue.length > 0) continue;
          if (failure !== undefined) throw failure.error;
          if (ended) return;
          await new Promise<void>((resolve) => {
            wakeReader = resolve;
            if (queue.length > 0 || ended) wake();
          });
        }
      } finally {
        left = true;
        release();
      }
    },
  };
}
