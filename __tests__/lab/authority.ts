import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "./commands";
import { CACHE } from "./settings";

/**
 * The one that the lab's machines trust: a certificate authority for TLS, and an OpenPGP key that signs package
 * repositories. Made once, since it is in the base images.
 */
export class Authority {
  readonly certificateFile = join(CACHE, "authority", "ca.pem");
  private readonly folder = join(CACHE, "authority");
  private readonly keyFile = join(this.folder, "ca.key");
  private readonly gnupgHome = join(this.folder, "gnupg");

  async prepare(): Promise<void> {
    if (existsSync(join(this.folder, "repository-key.asc"))) {
      return;
    }
    mkdirSync(this.gnupgHome, { recursive: true, mode: 0o700 });
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"],
      ...["-subj", "/CN=Lab authority", "-keyout", this.keyFile, "-out", this.certificateFile],
      ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    ]);
    await this.gpg(
      "--passphrase",
      "",
      "--quick-generate-key",
      "Lab repositories <lab@lab.internal>",
      "ed25519",
      "sign",
      "never",
    );
    await this.gpg("--armor", "--output", join(this.folder, "repository-key.asc"), "--export");
  }

  get certificate(): string {
    return readFileSync(this.certificateFile, "utf8");
  }

  get repositoryKey(): string {
    return readFileSync(join(this.folder, "repository-key.asc"), "utf8");
  }

  async repositoryKeyFingerprint(): Promise<string> {
    const keys = await this.gpg("--with-colons", "--list-keys");
    return /^fpr:+([0-9A-F]{40}):/m.exec(keys)![1];
  }

  /** Signs an apt repository's Release file. */
  async clearsign(file: string, output: string): Promise<void> {
    await this.gpg("--yes", "--clearsign", "--output", output, file);
  }

  /** Writes `server.key` and `server.pem` for these names. */
  async certify(folder: string, names: readonly string[]): Promise<void> {
    const request = join(folder, "server.csr");
    await run("openssl", [
      ...["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", `/CN=${names[0]}`],
      ...["-addext", `subjectAltName=${names.map((name) => `DNS:${name}`).join(",")}`],
      ...["-keyout", join(folder, "server.key"), "-out", request],
    ]);
    await run("openssl", [
      ...["x509", "-req", "-in", request, "-CA", this.certificateFile, "-CAkey", this.keyFile, "-days", "30"],
      ...[
        "-set_serial",
        `0x${Date.now().toString(16)}`,
        "-copy_extensions",
        "copy",
        "-out",
        join(folder, "server.pem"),
      ],
    ]);
  }

  private gpg(...args: string[]): Promise<string> {
    return run("gpg", ["--batch", "--quiet", "--homedir", this.gnupgHome, ...args]);
  }
}
