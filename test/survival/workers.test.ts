/** A smaller number than CI's live run (test/live/workers.test.ts), which has 500. */
import { workersSuite } from "./workers-suite.ts";

workersSuite(60);
