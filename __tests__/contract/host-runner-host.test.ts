import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, pathWith, program, recorder, run, onGoogle, testIf } from "./fakes/host";

const dockerMachine = program("docker-machine");
const gitlabRunner = program("gitlab-runner");
const gpg = program("gpg");
const runnerHost = join(cloudInit, "runner-host/runner-host");

let google: FakeGoogle;
let folder: string;

onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});

const environment = () => ({
  ...google.environment,
  HOST_ROOT: folder,
  HOST_LIB: join(cloudInit, "host"),
  HOME: folder,
  RETRY_PAUSE: "0",
  PATH: pathWith(join(folder, "bin")),
});
const bash = (script: string) => run("bash", ["-c", `. ${runnerHost}\n${script}`], environment());
const path = (name: string) => join(folder, name);
const text = (name: string) => readFileSync(path(name), "utf8");

function settings(dockerMachineSettings: Record<string, string>, more: Record<string, unknown> = {}): void {
  mkdirSync(path("etc/gitlab-runner-gce"), { recursive: true });
  writeFileSync(
    path("etc/gitlab-runner-gce/settings.json"),
    JSON.stringify({
      dockerMachine: dockerMachineSettings,
      managerIdentity: "my-project/us-central1-a/gitlab-runner",
      ...more,
    }),
  );
}
const sha256 = (content: string | Buffer) => createHash("sha256").update(content).digest("hex");

describe("docker-machine", () => {
  const script = "#!/bin/sh\necho docker-machine version 0.16.2-gitlab.59\n";
  const url = () => `http://${google.address}/docker-machine`;
  const install = () => bash("install_docker_machine");

  test("is verified, installed once, and replaced when it should be another", async () => {
    google.files.set("/docker-machine", script);
    settings({ url: url(), sha256: sha256(script).toUpperCase() });
    expect(await install()).toMatchObject({ status: 0, stdout: "docker-machine version 0.16.2-gitlab.59\n" });
    expect(statSync(path("usr/local/bin/docker-machine")).mode & 0o777).toBe(0o755);
    expect(await install()).toMatchObject({ status: 0, stdout: "" });
    settings({ url: url(), sha256: "" });
    expect(await install()).toMatchObject({ status: 0, stdout: "docker-machine version 0.16.2-gitlab.59\n" });
  });

  test("a wrong sum names both", async () => {
    google.files.set("/docker-machine", script);
    settings({ url: url(), sha256: "0".repeat(64) });
    const { status, stderr } = await install();
    expect(status).toBe(1);
    expect(stderr).toContain(
      `docker-machine from ${url()} has the SHA-256 sum ${sha256(script)}, expected ${"0".repeat(64)}`,
    );
    expect(existsSync(path("usr/local/bin/docker-machine"))).toBe(false);
  });

  test("a web page is no docker-machine", async () => {
    google.files.set("/docker-machine", "<html>");
    settings({ url: url(), sha256: "" });
    const { status, stderr } = await install();
    expect(status).toBe(1);
    expect(stderr).toContain(`What ${url()} serves does not run as docker-machine on this machine`);
    expect(existsSync(path("usr/local/bin/docker-machine"))).toBe(false);
  });

  testIf(dockerMachine !== undefined)("certificates: made from scratch, once, also after half of them", async () => {
    mkdirSync(path("usr/local/bin"), { recursive: true });
    execFileSync("ln", ["-s", dockerMachine ?? "", path("usr/local/bin/docker-machine")]);
    const certificates = path("var/lib/docker-machine/certs");
    mkdirSync(certificates, { recursive: true });
    writeFileSync(join(certificates, "ca.pem"), "half of i");
    mkdirSync(path("var/lib/docker-machine/machines/certificates"), { recursive: true });
    expect(await bash("certificates")).toMatchObject({ status: 0 });
    const fits = () =>
      execFileSync("openssl", ["verify", "-CAfile", join(certificates, "ca.pem"), join(certificates, "cert.pem")], {
        encoding: "utf8",
      });
    expect(fits()).toContain("OK");
    expect(existsSync(path("var/lib/docker-machine/machines/certificates"))).toBe(false);
    const before = readFileSync(join(certificates, "ca.pem"), "utf8");
    expect(await bash("certificates")).toMatchObject({ status: 0, stdout: "" });
    expect(readFileSync(join(certificates, "ca.pem"), "utf8")).toBe(before);
  });
});

test("the system id follows from the identity of the manager; the service is stopped only when it changes", async () => {
  settings({});
  recorder(path("bin"), "systemctl");
  const id = `r_${sha256("my-project/us-central1-a/gitlab-runner").slice(0, 12)}`;
  for (let i = 0; i < 2; i++) {
    expect(await bash("system_id")).toMatchObject({ status: 0, stderr: "" });
    expect(text("etc/gitlab-runner/.runner_system_id")).toBe(id);
    expect(statSync(path("etc/gitlab-runner/.runner_system_id")).mode & 0o777).toBe(0o600);
    expect(text("bin/systemctl.calls")).toBe("stop gitlab-runner.service\n");
  }
});

describe("the whole bootstrap", () => {
  const real = dockerMachine !== undefined && gitlabRunner !== undefined && gpg !== undefined;
  const secret = (name: string) => `projects/my-project/secrets/${name}`;

  beforeEach(() => {
    if (!real) return;
    const home = { ...process.env, GNUPGHOME: path("gnupg") };
    mkdirSync(home.GNUPGHOME, { mode: 0o700 });
    execFileSync(
      "gpg",
      ["--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "a@example.com", "ed25519", "sign", "never"],
      { env: home, stdio: "ignore" },
    );
    google.files.set(
      "/key",
      execFileSync("gpg", ["--batch", "--armor", "--export"], { env: home, stdio: ["ignore", "pipe", "ignore"] }),
    );
    const fingerprint = execFileSync("gpg", ["--batch", "--with-colons", "--list-keys"], {
      env: home,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).match(/^fpr:+([0-9A-F]+)/m)?.[1];
    execFileSync("gpgconf", ["--kill", "all"], { env: home });
    google.files.set("/docker-machine", readFileSync(dockerMachine));

    const repository = (...packages: string[]) => ({
      url: "https://example.com",
      keyUrl: `http://${google.address}/key`,
      keyFingerprint: fingerprint,
      suite: "$CODENAME",
      components: "main",
      packages,
    });
    settings(
      { url: `http://${google.address}/docker-machine`, sha256: sha256(readFileSync(dockerMachine)) },
      {
        docker: repository("docker-ce=5:29.8.0-1~*"),
        gitlabRunner: repository("gitlab-runner=19.3.0-1"),
        opsAgent: { enabled: false },
      },
    );
    google.secrets.set(secret("one"), ["glrt-one-one-one-one-one\n"]);
    google.secrets.set(secret("two"), ["glrt-two-two-two-two-two"]);
    google.setAttribute("config-toml", configToml());
    for (const name of ["apt-get", "apt-mark", "dpkg", "systemctl", "journalctl", "sleep"]) recorder(path("bin"), name);
    recorder(path("bin"), "gitlab-runner", `exec ${gitlabRunner} "$@"`);
  });

  const enabled = () => [...text("bin/systemctl.calls").matchAll(/^enable --now (.*)$/gm)].map(([, units]) => units);

  const configToml = (more = "") =>
    `concurrent = 1\n${more}` +
    ["one", "two"]
      .map(
        (name) =>
          `[[runners]]\n  name = "runner ${name}"\n  url = "http://${google.address}"\n  token = "secret://${secret(name)}/versions/latest"\n  executor = "shell"\n`,
      )
      .join("");
  const bootstrap = () => run(runnerHost, ["bootstrap"], environment());
  const status = () => google.published.filter((line) => line.startsWith("status=")).map((line) => line.slice(7));

  testIf(real)("works, says each step, and can be done again", async () => {
    for (let i = 0; i < 2; i++) {
      google.published.length = 0;
      const { status: code, stdout, stderr } = await bootstrap();
      expect({ code, last: status().at(-1) }).toEqual({ code: 0, last: "ready" });
      expect(status()).toEqual([
        "starting",
        "step: packages",
        "step: docker-machine",
        "step: certificates",
        "step: config",
        "step: gitlab-runner",
        "ready",
      ]);
      expect(stdout + stderr).not.toContain("glrt-");
    }
    expect(text("etc/gitlab-runner/config.toml")).toContain('token = "glrt-one-one-one-one-one"');
    expect(
      text("bin/systemctl.calls")
        .split("\n")
        .filter((line) => line.startsWith("stop")),
    ).toHaveLength(1);
    expect(enabled().slice(0, 2)).toEqual([
      "runner-host-config.service runner-host-drain.service runner-host-workers.timer",
      "gitlab-runner.service",
    ]);
    expect(text("bin/gitlab-runner.calls")).not.toContain("glrt-");
    expect(existsSync(path("var/lib/gitlab-runner-gce/bootstrapped"))).toBe(true);
  });

  testIf(real)("a token that GitLab refuses", async () => {
    google.refusedTokens.add("glrt-two-two-two-two-two");
    expect((await bootstrap()).status).toBe(1);
    expect(status().at(-1)).toBe(
      "failed: gitlab-runner: GitLab refuses the token of the runner runner two: check in GitLab that the runner still exists, " +
        `and add its token as a new version of the secret (${secret("one")}/versions/latest ${secret("two")}/versions/latest).`,
    );
    // The other one's jobs run: their host can be drained, and its VMs are looked after.
    expect(enabled()[0]).toContain("runner-host-drain.service");
    expect(existsSync(path("var/lib/gitlab-runner-gce/bootstrapped"))).toBe(false);
  });

  testIf(real)("a host that somebody has drained meanwhile comes to its end, without gitlab-runner", async () => {
    recorder(path("bin"), "systemctl", '[[ "$1" != is-active ]]');
    expect((await bootstrap()).status).toBe(1);
    expect(status().at(-1)).toMatch(/^failed: gitlab-runner: gitlab-runner does not stay up: /);
    writeFileSync(path("var/lib/gitlab-runner-gce/drained"), "operator");
    expect((await bootstrap()).status).toBe(0);
    expect(status().at(-1)).toBe("ready");
  });

  testIf(real)("a GitLab that cannot be reached", async () => {
    google.setAttribute("config-toml", configToml().replaceAll(google.address, "127.0.0.1:1"));
    expect((await bootstrap()).status).toBe(1);
    expect(status().at(-1)).toMatch(
      /^failed: gitlab-runner: GitLab cannot be asked whether it knows this runner: .*connection refused/,
    );
  });

  testIf(real)("a configuration with a misspelled key", async () => {
    google.setAttribute("config-toml", configToml("chek_interval = 1\n"));
    expect((await bootstrap()).status).toBe(1);
    expect(status().at(-1)).toMatch(
      /^failed: config: the new config-toml is not used: gitlab-runner --log-level error lint .* unknown key: chek_interval$/,
    );
    expect(existsSync(path("etc/gitlab-runner/config.toml"))).toBe(false);
  });
});
