/** kill -9 of the worker at every pass of every crash point in every step of both rotations of the demo. */
import { crashSuite } from "../survival/crash-suite.ts";

crashSuite("every pass");
