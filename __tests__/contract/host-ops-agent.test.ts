import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { OPS_AGENT_REPOSITORY } from "../../constructs/package-sources";
import { OPS_AGENT_PACKAGES } from "../../constructs/versions";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, onGoogle, pathWith, program, recorder, run, testIf } from "./fakes/host";

const gpg = program("gpg");

let google: FakeGoogle;
let folder: string;

onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});

const path = (name: string) => join(folder, name);
const text = (name: string) => readFileSync(path(name), "utf8");
const CONFIGURATION = "etc/google-cloud-ops-agent/config.yaml";
const file = join(cloudInit, "runner-host/ops-agent.yaml");

/** Ends a bootstrap as both hosts do. */
const bootstrap = () =>
  run("bash", ["-c", `. ${join(cloudInit, "host/host.sh")}\nbegin; step services; ops_agent ${file}; ready`], {
    ...google.environment,
    HOST_ROOT: folder,
    RETRY_PAUSE: "0",
    PATH: pathWith(path("bin")),
  });

function settings(value: object): void {
  mkdirSync(path("etc/gitlab-runner-gce"), { recursive: true });
  writeFileSync(path("etc/gitlab-runner-gce/settings.json"), JSON.stringify(value));
}

/** Google's repository, with a key that is made here. */
function enabled(): object {
  const env = { ...process.env, GNUPGHOME: path("gnupg") };
  mkdirSync(env.GNUPGHOME, { mode: 0o700 });
  const gpg = (...args: string[]) =>
    execFileSync("gpg", ["--batch", "--quiet", "--passphrase", "", ...args], {
      env,
      stdio: ["ignore", "pipe", "ignore"],
    }).toString();
  gpg("--quick-generate-key", "a@example.com", "ed25519", "sign", "never");
  google.files.set("/key", gpg("--armor", "--export"));
  const keyFingerprint = /^fpr:+([0-9A-F]+)/m.exec(gpg("--with-colons", "--list-keys"))?.[1];
  execFileSync("gpgconf", ["--kill", "all"], { env });
  const { url, suite, component: components } = OPS_AGENT_REPOSITORY;
  const keyUrl = `http://${google.address}/key`;
  const packages = OPS_AGENT_PACKAGES;
  return { opsAgent: { enabled: true, url, keyUrl, keyFingerprint, suite, components, packages } };
}

beforeEach(() => {
  for (const name of ["dpkg", "apt-mark", "systemctl"]) recorder(path("bin"), name);
  recorder(path("bin"), "journalctl", "echo 'line 7: unknown receiver type'");
  // The package starts the agent, with the configuration that is there.
  recorder(path("bin"), "apt-get", `[[ $* != *" install "* ]] || cp ${path(CONFIGURATION)} ${path("first.yaml")}`);
});

test("which is off leaves no trace, and is no step", async () => {
  settings({ opsAgent: { enabled: false } });
  expect((await bootstrap()).status).toBe(0);
  expect(google.published).toEqual(["status=starting", "status=step: services", "status=ready"]);
  expect(existsSync(path("etc/google-cloud-ops-agent"))).toBe(false);
  expect(existsSync(path("bin/apt-get.calls"))).toBe(false);
});

testIf(gpg !== undefined)("starts for the first time with its configuration, and can be done again", async () => {
  settings(enabled());
  for (let i = 0; i < 2; i++) {
    google.published.length = 0;
    expect((await bootstrap()).status).toBe(0);
    expect(google.published).toContain("status=step: ops-agent");
    expect(google.published.at(-1)).toBe("status=ready");
  }
  for (const name of [CONFIGURATION, "first.yaml"]) {
    expect(text(name)).toBe(readFileSync(file, "utf8"));
  }
  const codename = execFileSync("sh", ["-c", ". /etc/os-release; printf %s $VERSION_CODENAME"]).toString();
  expect(text("etc/apt/sources.list.d/opsAgent.sources")).toContain(
    `URIs: https://packages.cloud.google.com/apt\nSuites: google-cloud-ops-agent-${codename}-2\nComponents: main\n`,
  );
  expect(text("bin/apt-get.calls")).toMatch(
    /--force-confold .*install --no-install-recommends google-cloud-ops-agent=2\.\*\n/,
  );
  expect(text("bin/apt-mark.calls")).toContain("hold google-cloud-ops-agent\n");
  expect(text("bin/systemctl.calls")).toContain("enable --now google-cloud-ops-agent.service\n");
});

testIf(gpg !== undefined)("that does not start fails the set-up with its own words", async () => {
  settings(enabled());
  recorder(path("bin"), "systemctl", "exit 1");
  expect((await bootstrap()).status).toBe(1);
  expect(google.guestAttributes.get("status")).toBe(
    "failed: ops-agent: Google's Ops Agent does not start: line 7: unknown receiver type",
  );
  expect(existsSync(path("var/lib/gitlab-runner-gce/bootstrapped"))).toBe(false);
});

test("of which the settings say nothing is a mistake, not off", async () => {
  settings({});
  expect((await bootstrap()).status).toBe(1);
  expect(google.guestAttributes.get("status")).toBe(
    "failed: services: opsAgent.enabled is missing in the JSON settings",
  );
});
