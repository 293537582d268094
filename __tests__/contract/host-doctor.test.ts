import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { createServer, type AddressInfo } from "node:net";
import { basename, dirname, join } from "node:path";
import { parse as parseToml, stringify } from "smol-toml";
import { type RunnerEntry } from "../synthesized";
import { FakeGoogle } from "./fakes/google";
import {
  cloudInit,
  type Ended,
  eventually,
  onGoogle,
  pathWith,
  program,
  recorder,
  run,
  type Running,
  start,
  temporaryFolder,
  testIf,
} from "./fakes/host";
import { describeIf, programAvailable } from "./programs";
import { attribute, renderSubject } from "./rendered";
import { SUBJECTS } from "./subjects";

const dockerMachine = program("docker-machine");
const gitlabRunner = program("gitlab-runner");
const registry = program("registry");
const versitygw = program("versitygw");
const programs = [dockerMachine, gitlabRunner, registry, versitygw];
const real = programs.every((found) => found !== undefined);

let google: FakeGoogle;
let folder: string;
onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});

const path = (name: string) => join(folder, name);
const text = (name: string) => readFileSync(path(name), "utf8");
const write = (name: string, content: string, mode = 0o600) => {
  mkdirSync(dirname(path(name)), { recursive: true });
  writeFileSync(path(name), content);
  chmodSync(path(name), mode);
};
const LIBRARY = "usr/local/lib/gitlab-runner-gce";
const STATE = "var/lib/gitlab-runner-gce";
const KEYS = { access_key: "CACCESSKEY", secret_key: "secret-key-of-the-build-cache" };
const TOKEN = "glrt-token-of-the-runner";

/** The build cache and a registry with hello-world in it, for all tests. */
const servers: Running[] = [];
let data: string;
let buildCachePort: number;
let registryPort: number;

async function serve(command: string, args: string[], variables: Record<string, string>, url: string): Promise<void> {
  const server = start(command, args, variables);
  servers.push(server);
  for (const end = Date.now() + 20_000; Date.now() < end;) {
    if (await fetch(url).then(Boolean, () => false)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${command} does not answer: ${server.stdout}${server.stderr}`);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function push(): Promise<void> {
  const repository = `http://127.0.0.1:${registryPort}/v2/library/hello-world`;
  const digest = (content: string) => `sha256:${createHash("sha256").update(content).digest("hex")}`;
  const put = async (url: string, content: string, type: string) => {
    const { status } = await fetch(url, { method: "PUT", body: content, headers: { "Content-Type": type } });
    expect(status).toBe(201);
  };
  const blob = async (content: string, mediaType: string) => {
    const { headers } = await fetch(`${repository}/blobs/uploads/`, { method: "POST" });
    await put(`${headers.get("Location")}&digest=${digest(content)}`, content, "application/octet-stream");
    return { mediaType, digest: digest(content), size: content.length };
  };
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: await blob("{}", "application/vnd.oci.image.config.v1+json"),
    layers: [await blob("Hello from Docker!", "application/vnd.oci.image.layer.v1.tar")],
  });
  await put(`${repository}/manifests/${digest(manifest)}`, manifest, "application/vnd.oci.image.manifest.v1+json");
  const type = "application/vnd.oci.image.index.v1+json";
  const platform = { architecture: "amd64", os: "linux" };
  const annotations = { "org.opencontainers.image.base.digest": digest("another") };
  const only = { annotations, mediaType: "application/vnd.oci.image.manifest.v1+json", digest: digest(manifest) };
  const index = { schemaVersion: 2, mediaType: type, manifests: [{ ...only, size: manifest.length, platform }] };
  await put(`${repository}/manifests/latest`, JSON.stringify(index), type);
}

beforeAll(async () => {
  if (!real) return;
  data = temporaryFolder();
  [buildCachePort, registryPort] = [await freePort(), await freePort()];
  mkdirSync(join(data, "export/runner"), { recursive: true });
  const root = { ROOT_ACCESS_KEY: KEYS.access_key, ROOT_SECRET_KEY: KEYS.secret_key };
  const s3 = ["--port", `127.0.0.1:${buildCachePort}`, "--quiet", "posix", join(data, "export")];
  await serve(versitygw!, s3, root, `http://127.0.0.1:${buildCachePort}/`);
  writeFileSync(
    join(data, "registry.yml"),
    `version: 0.1\nstorage: {filesystem: {rootdirectory: ${data}/registry}}\nhttp: {addr: "127.0.0.1:${registryPort}"}\n`,
  );
  const quiet = { OTEL_TRACES_EXPORTER: "none" };
  await serve(registry!, ["serve", join(data, "registry.yml")], quiet, `http://127.0.0.1:${registryPort}/v2/`);
  await push();
});
afterAll(async () => {
  for (const server of servers) {
    server.process.kill("SIGKILL");
    await server.ended;
  }
  if (real) rmSync(data, { recursive: true });
});

interface Diagnosis {
  readonly host: string;
  readonly time: string;
  readonly ok: boolean;
  readonly checks: readonly { readonly name: string; readonly state: string; readonly detail: string }[];
}

/** Lays out a host as cloud-init does, on which all is well. */
function layOut(host: string, files: string[]): void {
  for (const file of ["host/host.sh", "host/doctor.sh", "host/build-cache-check", `${host}/doctor`, ...files]) {
    mkdirSync(path(LIBRARY), { recursive: true });
    symlinkSync(join(cloudInit, file), path(`${LIBRARY}/${basename(file)}`));
  }
  mkdirSync(path("usr/local/sbin"));
  symlinkSync(join(cloudInit, host, host), path(`usr/local/sbin/${host}`));
  mkdirSync(path("run"));
  write(`${STATE}/bootstrapped`, "");
  google.guestAttributes.set("status", "ready");
  google.guestAttributes.set("config", "ok");
  recorder(path("bin"), "id", "echo 0");
  // What is in the file "down" does not run, what is in "failed" has failed.
  recorder(
    path("bin"),
    "systemctl",
    `case "$1 $2" in
      "is-active --quiet") ! grep -qx "$3" ${path("down")} ;;
      "list-units --state=failed") sed 's/$/ loaded failed failed Something/' ${path("failed")} ;;
      *) exit 64 ;;
    esac`,
  );
  write("down", "");
  write("failed", "");
  recorder(path("bin"), "getent", `[[ "$1" == ahosts && ! -e ${path("no-dns")} && $2 != *.invalid ]]`);
  // The data disk, or all others.
  recorder(path("bin"), "df", `echo Use% IUse% Mounted on; cat ${path("df")}$([[ $* != */srv/cache ]] || echo -data)`);
  write("df", " 42%    7% /\n");
  write("df-data", " 50%    - /srv/cache\n");
}

const doctor = (host: string, args: string[], variables: Record<string, string> = {}): Promise<Ended> =>
  run(path(`usr/local/sbin/${host}`), ["doctor", ...args], environment(variables));
const environment = (variables: Record<string, string> = {}) => ({
  ...google.environment,
  HOST_ROOT: folder,
  HOST_LIB: path(LIBRARY),
  PATH: pathWith(path("bin")),
  ...variables,
});

async function diagnosis(host: string, args: string[] = [], variables?: Record<string, string>): Promise<Diagnosis> {
  const { status, stdout, stderr } = await doctor(host, ["--json", ...args], variables);
  expect(stderr).toBe("");
  const found = JSON.parse(stdout) as Diagnosis;
  expect(status).toBe(found.ok ? 0 : 1);
  return found;
}

const those = ({ checks }: Diagnosis, state: string) =>
  Object.fromEntries(checks.filter((check) => check.state === state).map(({ name, detail }) => [name, detail]));

/** One line, and only that one, says what is wrong. */
function expectOneFailure(found: Diagnosis, name: string, sentence: string | RegExp): void {
  expect(those(found, "FAILED")).toEqual({ [name]: expect.stringMatching(sentence) as string });
}

/** The table without what differs from run to run. */
const figures = (table: string) =>
  table
    .replace(/^bootstrap .*done on 20.*$/m, "bootstrap")
    .replace(/\d+ ms/g, "N ms")
    .replaceAll(google.address, "GITLAB")
    .replace(/ +$/gm, "");

/** What a doctor must leave as it is: all files, with their times. */
const inventory = () =>
  execFileSync("find", [folder, "-type", "f", "-not", "-name", "*.calls", "-printf", "%p %T@ %m %s\n"], {
    encoding: "utf8",
  });

const secret = (name: string) => `projects/my-project/secrets/${name}`;

describeIf(real)("runner-host doctor", () => {
  const CONFIG = "etc/gitlab-runner/config.toml";
  const GITLAB = "https://gitlab.example.com";
  let runners: Record<string, unknown>[];

  const configure = () => {
    const url = `http://${google.address}`;
    write(CONFIG, stringify({ concurrent: 10, runners }).replaceAll(GITLAB, url));
  };
  const s3 = () => (runners[0].cache as { s3: Record<string, unknown> }).s3;
  const machine = () => runners[0].machine as { MachineOptions: string[] };

  beforeEach(() => {
    layOut("runner-host", ["runner-host/read-config"]);
    recorder(path("bin"), "journalctl", `cat ${path("journal")}`);
    write("journal", '{"level":"info","msg":"All is well","time":"now"}\n');
    write("etc/gitlab-runner/.runner_system_id", "r_0123456789ab");
    recorder(path("bin"), "curl", `exec ${program("curl")} "$@"`);
    recorder(path("bin"), "gitlab-runner", `exec ${gitlabRunner} "$@"`);
    mkdirSync(path("usr/local/bin"));
    symlinkSync(dockerMachine!, path("usr/local/bin/docker-machine"));
    runners = [
      {
        name: "one",
        url: GITLAB,
        token: TOKEN,
        executor: "docker+machine",
        docker: { image: "alpine", tls_verify: false },
        machine: {
          MachineDriver: "none",
          MachineName: "%s",
          MachineOptions: ["url=tcp://127.0.0.1:2376", `engine-registry-mirror=http://127.0.0.1:${registryPort}`],
        },
        cache: {
          Type: "s3",
          s3: {
            ServerAddress: `127.0.0.1:${buildCachePort}`,
            Insecure: true,
            BucketName: "runner",
            BucketLocation: "us-east-1",
            AccessKey: KEYS.access_key,
            SecretKey: KEYS.secret_key,
          },
        },
      },
      { name: "two", url: GITLAB, token: `${TOKEN}-2`, executor: "shell" },
    ];
    configure();
    google.setAttribute("config-toml", `token = "secret://${secret("one")}/versions/latest"\n`);
    google.secrets.set(secret("one"), [TOKEN]);
    for (const [name, manager] of Object.entries({ a: "gitlab-runner", b: "another", c: "gitlab-runner" })) {
      const labels = { "gitlab-runner-manager": manager };
      google.instances.set(name, { zone: "us-central1-a", status: "RUNNING", creationTimestamp: "", labels });
    }
  });

  const diagnose = (args?: string[], variables?: Record<string, string>) => diagnosis("runner-host", args, variables);

  test("all is well, in a table; nothing is changed, and no secret is on a command line", async () => {
    const before = inventory();
    const { status, stdout, stderr } = await doctor("runner-host", []);
    expect({ status, stderr, stdout: figures(stdout) }).toEqual({
      status: 0,
      stderr: "",
      stdout: `\
bootstrap
drain          ok
services       ok       3 run
disk           ok       / 42%
dns            ok       2 names
metadata       ok       gitlab-runner
clock          ok       0 s off GitLab's
gitlab         ok       127.0.0.1 answers
google         ok       2 worker VMs, 1 secrets are readable
configuration  ok       the newest, for http://GITLAB
token          ok       known to GitLab
mirror         ok       hello-world pulled in N ms
cache          ok       put and get in N ms
machine        skipped  asked for with --create-machine, it makes a worker VM and removes it
errors         ok
0 failed, 0 warnings, 1 skipped, 14 ok
`,
    });
    expect(inventory()).toBe(before);
    const calls = ["curl", "gitlab-runner", "systemctl"].map((name) => text(`bin/${name}.calls`)).join("");
    for (const hidden of [google.token, TOKEN, KEYS.secret_key]) expect(stdout + calls).not.toContain(hidden);
  });

  test("all is well, for a machine to read", async () => {
    const found = await diagnose();
    expect(found).toEqual({
      host: execFileSync("uname", ["-n"], { encoding: "utf8" }).trim(),
      time: expect.stringMatching(/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$/) as string,
      ok: true,
      checks: expect.arrayContaining([{ name: "drain", state: "ok", detail: "" }]) as [],
    });
    expect(found.checks).toHaveLength(15);
  });

  test("everything is broken, and it says so", async () => {
    rmSync(path(CONFIG));
    write("no-dns", "");
    write("down", "docker.service\nrunner-host-config.service\ngitlab-runner.service\n");
    for (const name of ["journalctl", "df"]) recorder(path("bin"), name, "echo no $0 >&2; exit 1");
    const found = await diagnose(["--create-machine"], { GCE_METADATA_HOST: "127.0.0.1:1" });
    expect(Object.keys(those(found, "FAILED"))).toEqual([
      "services",
      "disk",
      "dns",
      "metadata",
      "configuration",
      "errors",
    ]);
    expect(those(found, "FAILED").errors).toMatch(/^This failed: .* ended with status 1: no \S+journalctl$/);
    expect(found.checks).toHaveLength(15);
  });

  const faults: [string, () => void, string, string | RegExp, Record<string, string>?][] = [
    [
      "the set-up failed",
      () => {
        rmSync(path(`${STATE}/bootstrapped`));
        rmSync(path(CONFIG));
        google.guestAttributes.set("status", "failed: packages: E: no such package");
      },
      "bootstrap",
      /^The set-up failed and is tried again every minute: packages: E: no such package; all of it: journalctl -u /,
    ],
    [
      "the set-up goes on",
      () => {
        rmSync(path(`${STATE}/bootstrapped`));
        google.guestAttributes.set("status", "step: packages");
      },
      "bootstrap",
      /^The set-up is not done, and says: step: packages; follow it with: journalctl -f -u /,
    ],
    [
      "a service is down",
      () => write("down", "gitlab-runner.service\n"),
      "services",
      "^Not running: gitlab-runner.service; see why with: journalctl -n 50 -u gitlab-runner.service; start it with:",
    ],
    [
      "the look after the workers is down",
      () => {
        write("etc/systemd/system/runner-host-workers.timer", "");
        write("down", "runner-host-workers.timer\n");
      },
      "services",
      "^Not running: runner-host-workers.timer;",
    ],
    [
      "one of our units failed",
      () => write("failed", "motd-news.service\nrunner-host-workers.service\n"),
      "services",
      "^runner-host-workers.service failed; see why with: journalctl -n 50 -u runner-host-workers.service",
    ],
    ["a disk is full", () => write("df", " 91%  1% /var\n"), "disk", "^/var is 91% full: see what fills it with: du"],
    ["no inodes are left", () => write("df", " 1%  99% /var\n"), "disk", "^/var has 99% of its inodes in use"],
    [
      "names are not resolved",
      () => {
        runners[1].url = "https://gitlab.invalid";
        configure();
        write("no-dns", "");
      },
      "dns",
      "^No address is found for compute.googleapis.com, gitlab.invalid, secretmanager.googleapis.com: look at",
    ],
    [
      "GitLab's name is not resolved",
      () => {
        runners[1].url = "https://gitlab.invalid:8443/gitlab";
        configure();
      },
      "dns",
      "^No address is found for gitlab.invalid: ",
    ],
    [
      "the metadata server is gone",
      () => {},
      "metadata",
      "^The metadata server does not answer: Failed to connect",
      { GCE_METADATA_HOST: "127.0.0.1:1" },
    ],
    [
      "the clock is wrong",
      () => {
        google.ahead = 3600;
        // As a build cache does when a signature is not of its own time.
        s3().SecretKey = "another";
        configure();
      },
      "clock",
      /^The clock is 3(600|599) s behind GitLab's, .*timedatectl/,
    ],
    [
      "GitLab is not there",
      () => {
        runners.forEach((runner) => (runner.url = "http://127.0.0.1:1"));
        configure();
      },
      "gitlab",
      "^GitLab does not answer at http://127.0.0.1:1: Failed to connect to 127.0.0.1 port 1",
    ],
    [
      "it is not GitLab",
      () => {
        runners.forEach((runner) => (runner.url = `${GITLAB}/else`));
        configure();
      },
      "token",
      /^GitLab cannot be asked whether it knows this runner: .*404/,
    ],
    [
      "GitLab's certificate authority is not there",
      () => {
        runners[1]["tls-ca-file"] = "/etc/gitlab-runner/ca.pem";
        configure();
      },
      "gitlab",
      "^There is no file /etc/gitlab-runner/ca.pem, the tls-ca-file of the runner",
    ],
    [
      "a secret may not be read",
      () => {
        google.denials = 1;
        google.guestAttributes.set("config", "failed: secret one: the service account may not read it");
      },
      "google",
      /^The service account runner@my-project.* may not read the secret projects\/my-project\/secrets\/one\/versions\/latest: grant it the role roles\/secretmanager.secretAccessor on it \(Permission denied/,
    ],
    [
      "a secret is not there",
      () => {
        google.secrets.clear();
        google.guestAttributes.set("config", "failed: secret one: not found");
      },
      "google",
      "^There is no secret projects/my-project/secrets/one/versions/latest that could be read: add a version with: gcloud secrets versions add one --project=my-project --data-file=- ",
    ],
    [
      "VMs may not be listed",
      () => google.lacking.add("compute.instances.list"),
      "google",
      /^The service account runner@\S+ may not list VMs: it needs compute.instances.list, .*terraform apply \(Required /,
    ],
    [
      "the newest configuration is not in use",
      () => google.guestAttributes.set("config", "failed: the new config-toml is not used: unknown key: chek_interval"),
      "configuration",
      /^The newest configuration is not in use, the one before is: the new config-toml is not used: unknown key: chek_interval$/,
    ],
    [
      "somebody broke config.toml",
      () => write(CONFIG, `${text(CONFIG)}oops\n`),
      "configuration",
      /^GitLab Runner does not understand .*: systemctl restart runner-host-config makes it anew \(/,
    ],
    [
      "config.toml is gone",
      () => rmSync(path(CONFIG)),
      "configuration",
      /^There is no .*config.toml: runner-host-config/,
    ],
    [
      "everybody can read config.toml",
      () => chmodSync(path(CONFIG), 0o644),
      "configuration",
      /^\S+config.toml has secrets in it, and its mode is 644: chmod 600 /,
    ],
    [
      "GitLab refuses a token",
      () => google.refusedTokens.add(`${TOKEN}-2`),
      "token",
      /^GitLab refuses the token of the runner two: .*add its token as a new version of the secret/,
    ],
    [
      "the mirror is not there",
      () => {
        machine().MachineOptions[1] = "engine-registry-mirror=http://127.0.0.1:1";
        configure();
      },
      "mirror",
      /^The registry mirror at http:\/\/127.0.0.1:1 does not answer: Failed .*; jobs go on .*sudo cache-host doctor$/,
    ],
    [
      "the mirror gets no images",
      () => {
        google.files.set("/v2/", "{}");
        machine().MachineOptions[1] = `engine-registry-mirror=http://${google.address}`;
        configure();
      },
      "mirror",
      /gives no manifest of alpine:latest: it answers 404/,
    ],
    [
      "the mirror's disk lost data",
      () => {
        const digest = `sha256:${"a".repeat(64)}`;
        google.files.set("/v2/", "{}");
        google.files.set("/v2/library/hello-world/manifests/latest", `{"config": {"digest": "${digest}"}}`);
        google.files.set(`/v2/library/hello-world/blobs/${digest}`, "rotten");
        machine().MachineOptions[1] = `engine-registry-mirror=http://${google.address}`;
        configure();
      },
      "mirror",
      /gives a blob that is not the one it should be/,
    ],
    [
      "the build cache is not there",
      () => {
        s3().ServerAddress = "127.0.0.1:1";
        configure();
      },
      "cache",
      /^The build cache at http:\/\/127.0.0.1:1 does not answer \(.*Connection refused\); jobs go on without/,
    ],
    [
      "the build cache has another secret key",
      () => {
        s3().SecretKey = "another";
        configure();
      },
      "cache",
      /^The build cache at \S+ refuses the keys \(SignatureDoesNotMatch\): .*systemctl restart cache-host-keys/,
    ],
    [
      "the build cache has new keys, which its newest configuration would have",
      () => {
        s3().SecretKey = "another";
        configure();
        google.guestAttributes.set("config", "failed: gitlab-runner ended with status 1");
      },
      "configuration",
      "^The newest configuration is not in use",
    ],
    [
      "the build cache has another access key",
      () => {
        s3().AccessKey = "ANOTHER";
        configure();
      },
      "cache",
      /^The build cache at \S+ refuses the keys \(/,
    ],
    [
      "the bucket is not there",
      () => {
        s3().BucketName = "nothing";
        configure();
      },
      "cache",
      /^The build cache at \S+ has no bucket nothing: if it is a cache host's, there this makes it: cache-host apply$/,
    ],
  ];
  test.each(faults)("%s", async (_, breakIt, name, sentence, ...[variables]) => {
    breakIt();
    expectOneFailure(await diagnose([], variables), name, sentence);
  });

  test("a GitLab with a certificate authority of its own, and one that is out of order", async () => {
    execFileSync(
      "openssl",
      ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"].concat([
        "-subj",
        "/CN=gitlab",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        path("key"),
        "-out",
        path("crt"),
      ]),
      { stdio: "ignore" },
    );
    let status = 302;
    const server = createHttpsServer({ key: text("key"), cert: text("crt") }, (_, response) => {
      response.writeHead(status).end();
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    runners[1].url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
    configure();
    try {
      expectOneFailure(
        await diagnose(),
        "gitlab",
        /^GitLab does not answer at https\S+: SSL certificate problem: .*; look/,
      );
      // GitLab Runner, which is not told of a HOST_ROOT, does not find it there.
      write("etc/gitlab-runner/certs/127.0.0.1.crt", text("crt"));
      expect(Object.keys(those(await diagnose(), "FAILED"))).toEqual(["token"]);
      rmSync(path("etc/gitlab-runner/certs"), { recursive: true });
      write("etc/gitlab-runner/authority.pem", text("crt"));
      runners[1]["tls-ca-file"] = "/etc/gitlab-runner/authority.pem";
      configure();
      expect(Object.keys(those(await diagnose(), "FAILED"))).toEqual(["token"]);
      status = 502;
      expectOneFailure(
        await diagnose(),
        "gitlab",
        /^GitLab answers 502 at https\S+: it is out of order, this host is not/,
      );
    } finally {
      server.close();
    }
  });

  test("drained, it takes no jobs, and gitlab-runner is down for a reason", async () => {
    write(`${STATE}/drained`, "operator");
    for (const list of ["down", "failed"]) write(list, "gitlab-runner.service\n");
    const found = await diagnose();
    expect(those(found, "FAILED")).toEqual({});
    expect(those(found, "warning")).toEqual({
      drain: expect.stringMatching(
        /^drained since 20.* UTC: takes no jobs; resume with: sudo runner-host resume$/,
      ) as string,
    });
  });

  test("the last errors, and units that are not ours, are warnings", async () => {
    write("failed", "motd-news.service\n");
    const line = (msg: string) => `{"level":"error","msg":"${msg}","time":"now"}\n`;
    write(
      "journal",
      `${line("first")}INFO: ok\n\u001b[31;1mERROR: \u001b[0;m second\nno error here\n${line("last one")}`,
    );
    expect(those(await diagnose(), "warning")).toEqual({
      services: "Of the system's own units failed: motd-news.service; see: systemctl status motd-news.service",
      errors:
        '3 in the last hour, see them with: journalctl -u gitlab-runner --since "1 hour ago"; the newest: level:error,msg:last one,time:now',
    });
  });

  test("a host without mirror, cache and machines", async () => {
    runners = [runners[1]];
    configure();
    const found = await diagnose(["--create-machine"]);
    expect(those(found, "skipped")).toEqual({
      mirror: "no runner uses a registry mirror",
      cache: "no runner has an S3 build cache with keys",
      machine: "no runner uses docker-machine",
    });
    expect(found.ok).toBe(true);
  });

  test("the real df understands what it is asked", async () => {
    recorder(path("bin"), "df", `exec ${program("df")} "$@"`);
    const { checks } = await diagnose();
    expect(checks.find(({ name }) => name === "disk")?.detail).toMatch(/^\/\S* (is )?(has )?\d+%/);
  });

  test("a check that hangs is ended, with all that it started", async () => {
    recorder(path("bin"), "systemctl", "echo $$ >$0.pid; exec sleep 1000");
    expectOneFailure(
      await diagnose([], { DOCTOR_SECONDS: "3" }),
      "services",
      "^This was not done after 3 s; try again",
    );
    const ended = `/proc/${text("bin/systemctl.pid").trim()}/cmdline`;
    expect(existsSync(ended) && readFileSync(ended, "utf8")).toBeFalsy(); // a zombie has none
  });

  test("a machine is made and removed", async () => {
    const found = await diagnose(["--create-machine"]);
    expect(those(found, "FAILED")).toEqual({});
    expect(those(found, "ok").machine).toMatch(/^created and removed in \d+ s$/);
    expect(existsSync(path("var/lib/docker-machine/machines"))).toBe(true);
    expect(execFileSync("ls", [path("var/lib/docker-machine/machines")], { encoding: "utf8" })).toBe("");
  });

  test("a machine cannot be made", async () => {
    machine().MachineOptions[0] = "url=";
    configure();
    expectOneFailure(
      await diagnose(["--create-machine"]),
      "machine",
      /^No worker VM can be made: .*--url option is required when no driver is selected$/,
    );
  });

  describe("with a docker-machine that takes its time", () => {
    const program = "usr/local/bin/docker-machine";
    const calls = () => (existsSync(path(`${program}.calls`)) ? text(`${program}.calls`) : "");
    let running: Running;
    beforeEach(() => {
      rmSync(path(program));
      recorder(
        dirname(path(program)),
        basename(program),
        `[[ $2 == rm ]] || { mkdir -p $MACHINE_STORAGE_PATH/machines/\${!#}; exec sleep 1000; }`,
      );
    });
    afterEach(() => running.process.kill("SIGKILL"));

    test.each(["SIGINT", "SIGTERM"] as const)("%s ends it, and the machine is removed", async (signal) => {
      running = start(
        path("usr/local/sbin/runner-host"),
        ["doctor", "--create-machine"],
        environment({ DOCTOR_SECONDS: "5" }),
      );
      await eventually("it makes a machine", () => calls().includes("create"));
      running.process.kill(signal);
      expect((await running.ended).status).toBe(130);
      expect(calls()).toMatch(
        /^\S+ create --driver=none --url=\S+ --engine-registry-mirror=\S+ (runner-doctor-[0-9a-f]{8})\n\S+ rm -y \1\n$/,
      );
      expect(execFileSync("ls", [path("run")], { encoding: "utf8" })).toBe("");
    });
  });
});

describeIf(real)("cache-host doctor", () => {
  const COMPOSE = "etc/gitlab-runner-gce/compose.yaml";
  const settings = (chosen: object = {}) =>
    google.setAttribute(
      "cache-settings",
      JSON.stringify({
        registryMirrorPort: registryPort,
        buildCachePort,
        bucket: "runner",
        highWaterPercent: 85,
        ...chosen,
      }),
    );
  const compose = (upstream: string) =>
    write(COMPOSE, `services:\n  registry-mirror:\n    environment:\n      REGISTRY_PROXY_REMOTEURL: "${upstream}"\n`);

  beforeEach(() => {
    layOut("cache-host", []);
    settings();
    google.secrets.set(secret("keys"), [JSON.stringify(KEYS)]);
    write("etc/gitlab-runner-gce/settings.json", JSON.stringify({ buildCacheKeysSecret: secret("keys") }));
    compose(`http://${google.address}`);
    mkdirSync(path("srv/cache"), { recursive: true });
    recorder(path("bin"), "findmnt", `cat ${path("mounted")}`);
    write("mounted", "/dev/disk/by-id/google-cache\n");
    recorder(
      path("bin"),
      "docker",
      `case "$*" in
        "ps -aq --filter label=com.docker.compose.project=cache"*=registry-mirror) echo mirror ;;
        "ps -aq --filter label=com.docker.compose.project=cache"*=build-cache) echo s3 ;;
        "ps -aq --filter label=com.docker.compose.project=cache") printf 'mirror\\ns3\\n' ;;
        "inspect --format {{.State.Status}} {{.RestartCount}} {{.State.StartedAt}} "*) cat ${folder}/$4 ;;
        "logs --"*) cat ${path("log")} >&2 ;;
        *) exit 64 ;;
      esac`,
    );
    for (const container of ["mirror", "s3"]) write(container, "running 3 2026-01-01T00:00:00.123456789Z\n");
    write("log", 'time="now" level=info msg="fine"\n');
  });

  const diagnose = (variables?: Record<string, string>) => diagnosis("cache-host", [], variables);

  test("all is well; nothing is changed, and no secret is on a command line", async () => {
    recorder(path("bin"), "curl", `exec ${program("curl")} "$@"`);
    const before = inventory();
    const { status, stdout, stderr } = await doctor("cache-host", []);
    expect({ status, stderr, stdout: figures(stdout) }).toEqual({
      status: 0,
      stderr: "",
      stdout: `\
bootstrap
dns            ok       1 names
metadata       ok       gitlab-runner
data-disk      ok       /srv/cache 50%
disk           ok       / 42%
services       ok       3 run
containers     ok       both run
clock          ok       0 s off the upstream registry's
upstream       ok       127.0.0.1 answers
keys           ok       readable
configuration  ok       the newest
mirror         ok       hello-world pulled in N ms
cache          ok       put and get in N ms
errors         ok
0 failed, 0 warnings, 0 skipped, 14 ok
`,
    });
    expect(inventory()).toBe(before);
    for (const hidden of [google.token, KEYS.secret_key]) expect(stdout + text("bin/curl.calls")).not.toContain(hidden);
  });

  const faults: [string, () => void, string, string | RegExp, Record<string, string>?][] = [
    [
      "the set-up failed",
      () => {
        rmSync(path(`${STATE}/bootstrapped`));
        google.guestAttributes.set("status", "failed: data-disk: There is no data disk");
      },
      "bootstrap",
      /^The set-up failed and is tried again every minute: data-disk: There is no data disk; .* cache-host-bootstrap/,
    ],
    [
      "names are not resolved",
      () => compose("https://registry.invalid"),
      "dns",
      "^No address is found for registry.invalid:",
    ],
    [
      "the metadata server is gone",
      () => {},
      "metadata",
      "^The metadata server does not answer: ",
      { GCE_METADATA_HOST: "127.0.0.1:1" },
    ],
    [
      "the data disk is not mounted",
      () => {
        recorder(path("bin"), "findmnt", "exit 1");
        write("down", "docker.service\n");
      },
      "data-disk",
      "^There is no data disk /dev/disk/by-id/google-cache: attach the disk",
    ],
    [
      "another disk is mounted",
      () => write("mounted", "/dev/sda1"),
      "data-disk",
      /^On \S+ is \/dev\/sda1, not the data disk/,
    ],
    ["the boot disk is full", () => write("df", "95% 5% /\n"), "disk", "^/ is 95% full"],
    ["Docker is down", () => write("down", "docker.service\n"), "services", "^Not running: docker.service;"],
    [
      "the keys are not followed",
      () => {
        write("etc/systemd/system/cache-host-keys.service", "");
        write("down", "cache-host-keys.service\n");
      },
      "services",
      "^Not running: cache-host-keys.service;",
    ],
    [
      "a container has ended",
      () => write("s3", "exited 0 2026-01-01T00:00:00Z\n"),
      "containers",
      "^The container of build-cache is exited: start it",
    ],
    [
      "a container was never made",
      () => recorder(path("bin"), "docker", ""),
      "containers",
      "^There is no container of registry-mirror: make it",
    ],
    [
      "a container ends again and again",
      () => {
        write("mirror", `running 7 ${new Date().toISOString()}\n`);
        write("log", "panic: no such thing\n");
      },
      "containers",
      "^The container of registry-mirror ends and is started again and again: panic: no such thing; see",
    ],
    [
      "the clock is wrong",
      () => (google.ahead = -100),
      "clock",
      /^The clock is (100|101) s ahead of the upstream registry's, /,
    ],
    [
      "the upstream registry is not there",
      () => compose("http://127.0.0.1:1"),
      "upstream",
      "^The upstream registry does not answer at http://127.0.0.1:1/v2/: Failed to connect",
    ],
    [
      "the keys may not be read",
      () => {
        google.denials = 1;
        google.guestAttributes.set("config", "failed: secret keys: the service account may not read it");
      },
      "keys",
      /^The service account \S+ may not read the secret projects\/my-project\/secrets\/keys\/versions\/latest: grant/,
    ],
    [
      "the keys are none",
      () => google.secrets.set(secret("keys"), ['{"access_key": "a"}']),
      "keys",
      /^The newest version of the secret \S+ is no JSON object with access_key and secret_key: .*cache-host rotate-keys$/,
    ],
    [
      "the build cache does not get the keys",
      () => google.guestAttributes.set("keys", "failed: users.json is broken"),
      "keys",
      "^The build cache does not get the keys of the secret: users.json is broken",
    ],
    [
      "the newest configuration is not in use",
      () =>
        google.guestAttributes.set("config", "failed: the new compose-yaml is not used: services must be a mapping"),
      "configuration",
      /^The newest configuration is not in use, the one before is: .*services must be a mapping$/,
    ],
    ["compose.yaml is gone", () => rmSync(path(COMPOSE)), "configuration", /^There is no \S+compose.yaml/],
    [
      "the settings are gone",
      () => google.attributes.delete("cache-settings"),
      "configuration",
      /attribute cache-settings/,
    ],
    [
      "the mirror gives no images",
      () => {
        google.files.set("/v2/", "{}");
        settings({ registryMirrorPort: Number(google.address.split(":")[1]) });
      },
      "mirror",
      /gives no manifest of alpine:latest: it answers 404 .*docker compose -p cache logs registry-mirror$/,
    ],
    [
      "the build cache has other keys",
      () => google.secrets.set(secret("keys"), [JSON.stringify({ ...KEYS, secret_key: "another" })]),
      "cache",
      /refuses the keys \(SignatureDoesNotMatch\)/,
    ],
    [
      "the bucket is not there",
      () => settings({ bucket: "nothing" }),
      "cache",
      /has no bucket nothing: .*cache-host apply$/,
    ],
  ];
  test.each(faults)("%s", async (_, breakIt, name, sentence, ...[variables]) => {
    breakIt();
    // Docker Hub is not asked here.
    if (!existsSync(path(COMPOSE)))
      recorder(path("bin"), "curl", `exec ${program("curl")} "\${@/https:*docker.io/http://${google.address}}"`);
    expectOneFailure(await diagnose(variables), name, sentence);
  });

  test("a full data disk is over the mark of its own", async () => {
    write("df-data", "91% 5% /srv/cache\n");
    const found = await diagnose();
    expectOneFailure(found, "data-disk", /^\/srv\/cache is 91% full: .*cache-host prune/);
    expect(those(found, "skipped")).toEqual({});
    settings({ highWaterPercent: 90 });
    expect(those(await diagnose(), "FAILED")).toEqual({});
    settings({ highWaterPercent: 95 });
    write("df-data", "98% 5% /srv/cache\n");
    expectOneFailure(await diagnose(), "data-disk", /^\/srv\/cache is 98% full/);
  });

  test("the last errors are a warning; what the mirror does not find is none", async () => {
    write(
      "log",
      'time=now level=error msg="response completed with error" http.response.status=404\n' +
        'time=now level=error msg="Scheduler error returned from OnExpire(library/a@sha256:0a): unknown blob" go.version=go1\n' +
        'time=now level=error msg="disk is bad"\n\u001b[31m[INTERNAL ERROR]: no space left\u001b[0m\n',
    );
    expect(those(await diagnose(), "warning")).toEqual({
      errors: expect.stringMatching(
        /^4 in the last hour, .*; the newest: \[INTERNAL ERROR\]: no space left$/,
      ) as string,
    });
  });
});

test("build-cache-check asks where the runner does: below its Path, and of Amazon's S3 in the bucket's region", async () => {
  const asked: string[] = [];
  const proxy = createHttpServer(({ method, url }, response) => {
    asked.push(`${method} ${url?.split("?")[0]}`);
    response.writeHead(403).end("<Error><Code>AccessDenied</Code></Error>");
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const s3 = { ServerAddress: "s3.amazonaws.com", BucketLocation: "eu-west-1", BucketName: "caches", Path: "/ci/" };
  write("s3.json", JSON.stringify({ ...s3, AccessKey: "A", SecretKey: "B", Insecure: true }));
  const command = `${join(cloudInit, "host/build-cache-check")} doctor/host <${path("s3.json")}`;
  const environment = { http_proxy: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}` };
  const { status, stdout } = await run("sh", ["-c", command], environment);
  proxy.close();
  expect(asked).toEqual(["PUT http://s3.eu-west-1.amazonaws.com/caches/ci/doctor/host"]);
  // Keys that may do something else are not refused ones.
  expect({ status, stdout }).toEqual({
    status: 1,
    stdout: "The build cache at http://s3.eu-west-1.amazonaws.com answers 403 (AccessDenied)\n",
  });
});

describe("read-config", () => {
  const ask = (what: string, config: string) => {
    const input = { input: config, encoding: "utf8" } as const;
    return execFileSync(join(cloudInit, "runner-host/read-config"), [what], input).split("\0").slice(0, -1);
  };
  /** The same from a real reader of TOML. */
  const answers = (config: string) => {
    const runners = (parseToml(config) as unknown as { runners: RunnerEntry[] }).runners;
    const unique = (list: string[]) => [...new Set(list)];
    const mirrors = (runner: RunnerEntry) =>
      runner.machine.MachineOptions.filter((option) => option.startsWith("engine-registry-mirror=")).map((option) =>
        option.replace("engine-registry-mirror=", ""),
      );
    const [{ machine }] = runners;
    return {
      gitlab: unique(
        runners.map((runner) => `${String(runner.url)} ${(runner["tls-ca-file"] as string | undefined) ?? ""}`),
      ),
      mirror: unique(runners.flatMap(mirrors)),
      server: unique(
        runners.flatMap((runner) => [runner.url, ...mirrors(runner), runner.cache.s3.ServerAddress].map(String)),
      ),
      machine: [`--driver=${String(machine.MachineDriver)}`, ...machine.MachineOptions.map((option) => `--${option}`)],
      s3: unique(runners.map(({ cache: { Path, s3 } }) => JSON.stringify(Path === undefined ? s3 : { ...s3, Path }))),
    };
  };
  const read = (config: string) => ({
    ...Object.fromEntries(["gitlab", "mirror", "server", "machine"].map((what) => [what, ask(what, config)])),
    s3: ask("s3", config).map((table) => JSON.stringify(JSON.parse(table))),
  });

  describeIf(programAvailable("terraform")).each(
    SUBJECTS.filter(({ name }) => ["the ready stack", "examples/two-teams"].includes(name)),
  )("of what Terraform writes for $name", (subject) => {
    test("is what is in it", async () => {
      for (const config of attribute(await renderSubject(subject, folder), "config-toml")) {
        expect(answers(config).machine.length).toBeGreaterThan(10);
        expect(read(config)).toEqual(answers(config));
      }
    });
  });

  testIf(gitlabRunner !== undefined)("of what GitLab Runner writes is what is in it", async () => {
    const runner = (name: string) => ({
      name,
      url: `http://${google.address}`,
      token: `glrt-${name}`,
      "tls-ca-file": "/etc/ca.pem",
      executor: "docker+machine",
      docker: { image: "alpine", sysctls: { "net.core.somaxconn": "1024" } },
      machine: {
        MachineDriver: "google",
        MachineName: "%s",
        MachineOptions: ["engine-registry-mirror=http://a:6000", 'b="\\'],
      },
      cache: {
        Type: "s3",
        Path: "ci",
        s3: { ServerAddress: "a:9005", AccessKey: "a", SecretKey: 'b\u2028"\\', Insecure: true },
      },
    });
    const written = stringify({ concurrent: 1, runners: [runner("one"), runner("two")] });
    write("config.toml", written);
    google.refusedTokens.add("glrt-two");
    await run(gitlabRunner!, ["verify", "--delete", "--config", path("config.toml")]);
    const rewritten = text("config.toml");
    expect(rewritten).toContain("  [runners.machine]");
    expect(rewritten).not.toContain("glrt-two");
    for (const config of [written, rewritten]) expect(read(config)).toEqual(answers(config));
  });
});

describe("usage", () => {
  beforeEach(() => {
    for (const host of ["runner-host", "cache-host"]) {
      folder = path(host);
      mkdirSync(folder);
      layOut(host, []);
      folder = dirname(folder);
    }
  });
  const ask = async (host: string, ...args: string[]) => {
    folder = path(host);
    const ended = await doctor(host, args);
    folder = dirname(folder);
    return { status: ended.status, stdout: ended.stdout, stderr: ended.stderr };
  };

  test("an unknown option", async () => {
    const stderr = "Usage: runner-host doctor [--json] [--create-machine]\n";
    expect(await ask("runner-host", "--jsn")).toEqual({ status: 2, stdout: "", stderr });
  });

  test("a cache host makes no machines", async () => {
    const stderr = "Usage: cache-host doctor [--json]\n";
    expect(await ask("cache-host", "--create-machine")).toEqual({ status: 2, stdout: "", stderr });
  });

  test("not root", async () => {
    recorder(path("runner-host/bin"), "id", "echo 1000");
    const stderr = "Only root can look everywhere: sudo runner-host doctor\n";
    expect(await ask("runner-host", "--json")).toEqual({ status: 2, stdout: "", stderr });
  });
});
