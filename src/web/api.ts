/** The server's answers as queries: kept while a newer one is fetched, asked again when an event says that something changed. */
import { QueryCache, QueryClient, useQuery, type UseQueryResult } from "@tanstack/react-query";
import { ApiProblem, createClient, type Input, type Output } from "../server/client.ts";
import type { OperationName } from "../server/operations.ts";

/** Base path without a slash at the end: `""` at the root of a host. */
export const basePath = new URL(document.baseURI).pathname.replace(/\/$/, "");
export const client = createClient({ base: basePath });

export const queries: QueryClient = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 5000,
      refetchOnWindowFocus: true,
      // What the server refused will be refused again; what did not reach it may yet.
      retry: (failures, error) => !(error instanceof ApiProblem && error.status < 500) && failures < 2,
      retryDelay: (attempt) => Math.min(1000 * 2 ** attempt, 8000),
      networkMode: "always",
    },
    mutations: { retry: false, networkMode: "always" },
  },
  queryCache: new QueryCache({
    onError: (error, query) => {
      if (error instanceof ApiProblem && error.status === 401 && query.queryKey[0] !== "getSession")
        void queries.invalidateQueries({ queryKey: ["getSession"] });
    },
  }),
});

const known = new Map<string, { readonly etag: string; readonly data: unknown }>();
const mostKnown = 100;

/** Reads with what was known before, so that an answer that did not change is not sent again. */
export async function read<K extends OperationName>(
  name: K,
  input: Input<K>,
  signal?: AbortSignal,
): Promise<Output<K>> {
  const key = client.url(name, input);
  const before = known.get(key);
  const more = { ...(signal === undefined ? {} : { signal }), ...(before === undefined ? {} : { etag: before.etag }) };
  const answer = await client.read(name, input, more);
  if (answer === null) return before!.data as Output<K>;
  known.delete(key);
  if (answer.etag !== null) {
    known.set(key, { etag: answer.etag, data: answer.data });
    if (known.size > mostKnown) known.delete(known.keys().next().value!);
  }
  return answer.data;
}

/** What was known belongs to who was signed in. */
export function forget(): void {
  known.clear();
  queries.clear();
}

export function useRead<K extends OperationName>(
  name: K,
  input: Input<K>,
  options: { readonly enabled?: boolean; readonly everyMs?: number; readonly keep?: boolean } = {},
): UseQueryResult<Output<K>> {
  return useQuery<Output<K>>({
    queryKey: [name, input],
    queryFn: ({ signal }) => read(name, input, signal),
    ...(options.enabled === undefined ? {} : { enabled: options.enabled }),
    ...(options.everyMs === undefined ? {} : { refetchInterval: options.everyMs }),
    ...(options.keep === true ? { placeholderData: (before: unknown) => before as never } : {}),
  });
}
