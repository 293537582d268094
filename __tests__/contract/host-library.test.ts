import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, program, recorder, pathWith, run, start, onGoogle, testIf } from "./fakes/host";

let google: FakeGoogle;
let folder: string;

onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});

const bash = (script: string, environment: Record<string, string> = {}) =>
  run("bash", ["-c", `. ${join(cloudInit, "host/host.sh")}\n${script}`], {
    ...google.environment,
    HOST_ROOT: folder,
    RETRY_PAUSE: "0",
    PATH: pathWith(join(folder, "bin")),
    ...environment,
  });

function settings(value: unknown): void {
  mkdirSync(join(folder, "etc/gitlab-runner-gce"), { recursive: true });
  writeFileSync(join(folder, "etc/gitlab-runner-gce/settings.json"), JSON.stringify(value));
}

describe("settings", () => {
  test("any string comes out as it is, a list item by item", async () => {
    const text = `a "b" 'c' $HOME $(id) \\ %s\nü😀 \u2028`;
    settings({ a: { b: text, list: ["x y", text], empty: "" } });
    const { stdout } = await bash(
      `setting a.b; printf '|'; setting a.empty; printf '|'; mapfile -d '' -t list < <(setting a.list); printf '%s;' "\${list[@]}"`,
    );
    expect(stdout).toBe(`${text}||x y;${text};`);
  });

  test("a missing one is a sentence", async () => {
    settings({ a: {} });
    expect(await bash("x=$(setting a.b)")).toMatchObject({
      status: 1,
      stderr: "a.b is missing in the JSON settings\n",
    });
  });
});

describe("status", () => {
  test("a step that works", async () => {
    expect(await bash("begin; step packages; ready")).toMatchObject({
      status: 0,
      stdout: "Step packages\nReady\n",
      stderr: "",
    });
    expect(google.published).toEqual(["status=starting", "status=step: packages", "status=ready"]);
    expect(existsSync(join(folder, "var/lib/gitlab-runner-gce/bootstrapped"))).toBe(true);
  });

  test.each([
    [
      "the last lines of what it wrote",
      String.raw`echo early >&2; step two; printf '\e[31mone\e[0m\n\ntwo "é" \\\n' >&2; false`,
      "failed: two: one two '??' '",
    ],
    ["a sentence", "step two; echo noise >&2; die 'Do this.'", "failed: two: Do this."],
    ["a sentence from a subshell", "step two; x=$(echo noise >&2; die 'Do this.')", "failed: two: Do this."],
    [
      "a command that says nothing",
      "step two; f() { test -e /no/$PWD; echo not here; }; f",
      "failed: two: test -e /no/$PWD ended with status 1",
    ],
    ["only the last attempt", 'step two; n=0; f() { echo "$((++n))" >&2; return 1; }; retry 3 f', "failed: two: 3"],
    ["a failed pipe", "step two; false | cat", "failed: two: cat ended with status 1"],
    ["500 characters", "step two; die \"$(printf 'x%.0s' {1..900})\"", `failed: two: ${"x".repeat(487)}`],
  ])("a step that fails: %s", async (_, script, status) => {
    expect((await bash(`begin; step one; ${script}; echo not here`)).stdout).not.toContain("not here\n");
    expect(google.guestAttributes.get("status")).toBe(status);
    expect(existsSync(join(folder, "var/lib/gitlab-runner-gce/bootstrapped"))).toBe(false);
  });

  test("a shutdown in the middle is no failure", async () => {
    const running = start(
      "bash",
      ["-c", `. ${join(cloudInit, "host/host.sh")}; begin; step one; echo here; sleep 3 & wait $!; false`],
      google.environment,
    );
    while (!running.stdout.includes("here")) await new Promise((resolve) => setTimeout(resolve, 50));
    running.process.kill("SIGTERM");
    expect((await running.ended).status).not.toBe(0);
    expect(google.published).toEqual(["status=starting", "status=step: one"]);
  });

  test("a shutdown ends what would try again, at once", async () => {
    const running = start("bash", ["-c", `. ${join(cloudInit, "host/host.sh")}; begin; step one; retry 9 false`], {
      ...google.environment,
      RETRY_PAUSE: "1",
    });
    while (!running.stdout.includes("false failed")) await new Promise((resolve) => setTimeout(resolve, 50));
    const before = Date.now();
    running.process.kill("SIGTERM");
    expect((await running.ended).status).toBe(143);
    expect(Date.now() - before).toBeLessThan(4000);
    expect(google.published).toEqual(["status=starting", "status=step: one"]);
  });

  test("nobody to publish to is no failure", async () => {
    recorder(join(folder, "bin"), "curl", "exit 7");
    const { status, stdout } = await bash("begin; step one; ready");
    expect(status).toBe(0);
    expect(stdout).toContain("Could not publish the guest attribute gitlab-runner/status");
  });
});

const gpg = program("gpg");

describe("apt repositories", () => {
  let ours: string;
  let other: string;

  function generate(name: string): string {
    const env = { ...process.env, GNUPGHOME: join(folder, "gnupg") };
    mkdirSync(env.GNUPGHOME, { recursive: true, mode: 0o700 });
    spawnSync(
      "gpg",
      ["--batch", "--quiet", "--passphrase", "", "--quick-generate-key", name, "ed25519", "cert,sign", "never"],
      { env },
    );
    const lines = execFileSync("gpg", ["--batch", "--with-colons", "--list-keys", name], {
      env,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).split("\n");
    const fingerprint = lines.find((line) => line.startsWith("fpr"))?.split(":")[9] ?? "";
    // A subkey, so that its fingerprint is there to be mistaken for the key's.
    spawnSync("gpg", ["--batch", "--passphrase", "", "--quick-add-key", fingerprint, "cv25519", "encr", "never"], {
      env,
    });
    return fingerprint;
  }
  const armored = (...fingerprints: string[]) =>
    execFileSync("gpg", ["--batch", "--armor", "--export", ...fingerprints], {
      env: { ...process.env, GNUPGHOME: join(folder, "gnupg") },
      stdio: ["ignore", "pipe", "ignore"],
    });
  const inKeyring = (file: string) =>
    execFileSync("gpg", ["--batch", "--with-colons", "--show-keys", file], {
      encoding: "utf8",
      env: { ...process.env, GNUPGHOME: join(folder, "gnupg") },
    })
      .split("\n")
      .filter((line, index, lines) => line.startsWith("fpr") && lines[index - 1]?.startsWith("pub"))
      .map((line) => line.split(":")[9]);

  const repository = (fingerprint: string) => ({
    docker: {
      url: "https://download.example.com/linux/ubuntu",
      keyUrl: `http://${google.address}/key`,
      keyFingerprint: fingerprint,
      suite: "$CODENAME",
      components: "stable",
      packages: ["docker-ce=5:29.8.0-1~*", "docker-ce-cli=5:29.8.0-1~*"],
    },
  });
  const keyring = () => join(folder, "etc/apt/keyrings/docker.gpg");

  beforeEach(() => {
    if (gpg === undefined) return;
    ours = generate("ours@example.com");
    other = generate("other@example.com");
  });
  afterEach(
    () => void spawnSync("gpgconf", ["--kill", "all"], { env: { ...process.env, GNUPGHOME: join(folder, "gnupg") } }),
  );

  testIf(gpg !== undefined)("the right key, and only that one", async () => {
    google.files.set("/key", armored(ours, other));
    settings(repository(ours.toLowerCase().replace(/(....)/g, "$1 ")));
    expect(await bash("add_repository docker")).toMatchObject({ status: 0, stderr: "" });
    expect(inKeyring(keyring())).toEqual([ours]);
    expect(statSync(keyring()).mode & 0o777).toBe(0o644);
    const codename = execFileSync("sh", ["-c", ". /etc/os-release; echo $VERSION_CODENAME"], {
      encoding: "utf8",
    }).trim();
    expect(readFileSync(join(folder, "etc/apt/sources.list.d/docker.sources"), "utf8")).toBe(
      `Types: deb\nURIs: https://download.example.com/linux/ubuntu\nSuites: ${codename}\nComponents: stable\nSigned-By: ${keyring()}\n`,
    );
  });

  testIf(gpg !== undefined)("a wrong key is refused with both fingerprints", async () => {
    google.files.set("/key", armored(other));
    settings(repository(ours));
    const { status, stderr } = await bash("add_repository docker");
    expect(status).toBe(1);
    expect(stderr).toContain(
      `The repository key at http://${google.address}/key has the fingerprint ${other}, expected ${ours}: `,
    );
    expect(existsSync(keyring())).toBe(false);
  });

  testIf(gpg !== undefined)("something else than a key is a sentence", async () => {
    google.files.set("/key", "<html>Not found</html>");
    settings(repository(ours));
    const { status, stderr } = await bash("add_repository docker");
    expect(status).toBe(1);
    expect(stderr).toContain(`What http://${google.address}/key serves is not an OpenPGP key.`);
  });

  testIf(gpg !== undefined)("packages survive a mirror that fails twice, and are held", async () => {
    google.files.set("/key", armored(ours));
    settings(repository(ours));
    recorder(join(folder, "bin"), "dpkg");
    recorder(join(folder, "bin"), "apt-mark");
    recorder(join(folder, "bin"), "apt-get", `[ "$(wc -l <"$0.calls")" -gt 2 ] || { echo 'E: 503' >&2; exit 100; }`);
    expect(await bash("install_packages docker -- xz-utils")).toMatchObject({ status: 0 });
    const calls = readFileSync(join(folder, "bin/apt-get.calls"), "utf8").trim().split("\n");
    expect(calls).toHaveLength(4);
    expect(calls[3]).toMatch(
      / install --no-install-recommends docker-ce=5:29\.8\.0-1~\* docker-ce-cli=5:29\.8\.0-1~\* xz-utils$/,
    );
    expect(readFileSync(join(folder, "bin/apt-mark.calls"), "utf8")).toBe("hold docker-ce docker-ce-cli\n");
  });
});
