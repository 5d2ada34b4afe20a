import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Secret } from "../secret.ts";
import { fitsPassword, preparePassword, scramVerifier } from "./scram.ts";

describe("scramVerifier", () => {
  it("gives the keys of RFC 7677's example", async () => {
    // RFC 7677 section 3: password "pencil", salt "W22ZaJ0SNY7soEsUEjb6gQ==", 4096 rounds. The keys follow from its messages: the server's
    // signature there is HMAC(ServerKey, AuthMessage), checked below.
    const verifier = await scramVerifier(new Secret("pencil"), Buffer.from("W22ZaJ0SNY7soEsUEjb6gQ==", "base64"), 4096);
    const serverKey = Buffer.from(verifier.split(":").at(-1)!, "base64");
    const storedKey = Buffer.from(/\$([^$:]+):[^:]+$/.exec(verifier)![1]!, "base64");
    const authMessage =
      "n=user,r=rOprNGfwEbeRWgbNEkqO," +
      "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096," +
      "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const { createHmac, createHash } = await import("node:crypto");
    expect(createHmac("sha256", serverKey).update(authMessage).digest("base64")).toBe(
      "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    );
    // The client's proof there is ClientKey XOR HMAC(StoredKey, AuthMessage), and StoredKey is the hash of ClientKey.
    const proof = Buffer.from("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", "base64");
    const signature = createHmac("sha256", storedKey).update(authMessage).digest();
    const clientKey = Buffer.from(proof.map((byte, i) => byte ^ signature[i]!));
    expect(createHash("sha256").update(clientKey).digest()).toEqual(storedKey);
  });

  it("fits its own password and no other, whatever the password", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: "grapheme", minLength: 1, maxLength: 40 }).filter((text) => !text.includes("\0")),
        fc.uint8Array({ minLength: 16, maxLength: 16 }),
        async (password, salt) => {
          const verifier = await scramVerifier(new Secret(password), salt);
          expect(verifier).toMatch(/^SCRAM-SHA-256\$4096:[^$]+\$[^:]+:[^:]+$/);
          expect(await fitsPassword(verifier, "app", new Secret(password))).toBe(true);
          expect(await fitsPassword(verifier, "app", new Secret(`${password}x`))).toBe(false);
        },
      ),
      { numRuns: 40 },
    );
  });

  it("prepares passwords as RFC 4013 says, and leaves those that it forbids as they are", () => {
    // RFC 4013 section 3, examples 1 to 5; 6 and 7 are forbidden there, and PostgreSQL then takes them as they are.
    expect(preparePassword("I\u00ADX")).toBe("IX");
    expect(preparePassword("user")).toBe("user");
    expect(preparePassword("USER")).toBe("USER");
    expect(preparePassword("\u00AA")).toBe("a");
    expect(preparePassword("\u2168")).toBe("IX");
    expect(preparePassword("\u0007")).toBe("\u0007");
    expect(preparePassword("\u0627\u0031")).toBe("\u0627\u0031");
  });

  it("knows the older md5 form, and takes nothing else for a fit", async () => {
    // md5('secretapp')
    expect(await fitsPassword("md527ba9ca7dc9bf9c1de3e55b3fd8ffb2b", "app", new Secret("secret"))).toBe(false);
    const { createHash } = await import("node:crypto");
    const stored = `md5${createHash("md5").update("secretapp").digest("hex")}`;
    expect(await fitsPassword(stored, "app", new Secret("secret"))).toBe(true);
    expect(await fitsPassword(stored, "other", new Secret("secret"))).toBe(false);
    for (const text of ["", "secret", "SCRAM-SHA-256$0:AA==$AA==:AA==", "SCRAM-SHA-256$999999999:AA==$AA==:AA=="]) {
      expect(await fitsPassword(text, "app", new Secret("secret"))).toBe(false);
    }
  });
});
