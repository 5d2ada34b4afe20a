import { defineConfig } from "vitest/config";

// Live tests talk to Debian's own servers on 127.0.0.1, so they run one file at a time: two cores, and ports that must not collide.
export default defineConfig({
  test: {
    include: ["test/live/**/*.test.ts", "test/e2e/**/*.test.ts"],
    isolate: false,
    pool: "forks",
    fileParallelism: false,
    testTimeout: 180_000,
    hookTimeout: 120_000,
  },
});
