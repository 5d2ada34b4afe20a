/** Where the CA's own certificate and key come from: a credential of the estate, or two files. */
import { ConnectorError } from "../connector.ts";
import type { VersionHandle } from "../connector.ts";
import { Secret } from "../secret.ts";
import type { Signer } from "../shared/certify.ts";
import { readPrivateFile, readTextFile } from "../shared/files.ts";
import { certificateOf, certificatesOf, keyMatches, privateKeyOf } from "../shared/x509.ts";
import { guarded } from "./issue.ts";
import type { CaConfig } from "./schema.ts";

export async function signerFromEstate(version: VersionHandle): Promise<Signer> {
  if (!version.hasMaterial) {
    throw new ConnectorError("misconfigured", `${version.id} cannot sign: its private key is not sealed here.`, {
      next: "Adopt the CA with its key, or give certificateFile and keyFile.",
    });
  }
  const material = await version.open();
  if (material.kind !== "key" || material.certificates[0] === undefined) {
    throw new ConnectorError("misconfigured", `${version.id} cannot sign: it is no certificate with a key.`);
  }
  const [own, ...above] = material.certificates;
  return guarded(version.id, () => ({
    certificate: certificateOf(own),
    key: privateKeyOf(material.privateKey),
    above: above.map((one) => certificateOf(one)),
  }));
}

export async function signerFromFiles(config: CaConfig): Promise<Signer> {
  const { certificateFile, keyFile } = config;
  if (certificateFile === undefined || keyFile === undefined) {
    throw new ConnectorError("misconfigured", "This x509.ca has no CA.", {
      next: "Set ca, or certificateFile and keyFile.",
    });
  }
  const text = await readTextFile(certificateFile);
  const [certificate, ...above] = guarded(certificateFile, () => certificatesOf(text));
  if (certificate === undefined) throw new ConnectorError("misconfigured", `${certificateFile} holds no certificate.`);
  const password = config.keyPassword === undefined ? undefined : new Secret(config.keyPassword);
  const keyText = await readPrivateFile(keyFile);
  const key = guarded(keyFile, () => privateKeyOf(keyText, password));
  if (!keyMatches(certificate, key)) {
    throw new ConnectorError(
      "misconfigured",
      `The private key in ${keyFile} does not belong to the first certificate in ${certificateFile}.`,
      {
        next: "Put the CA's own certificate first.",
      },
    );
  }
  return { certificate, key, above };
}
