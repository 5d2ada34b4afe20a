/** Three workers, 500 rotations, one worker killed and one frozen. */
import { workersSuite } from "../survival/workers-suite.ts";

workersSuite(500);
