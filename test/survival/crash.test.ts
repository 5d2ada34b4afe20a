/**
 * Every name of a crash point once, each in the password's or the certificate's rotation as the seed chooses, because all passes take several
 * minutes on a small machine: test/live/crash.test.ts takes them all, and CI runs both.
 */
import { crashSuite } from "./crash-suite.ts";

crashSuite("every name");
