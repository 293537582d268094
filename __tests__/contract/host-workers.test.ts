import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { FakeGoogle, type FakeInstance } from "./fakes/google";
import { cloudInit, eventually, onGoogle, pathWith, recorder, run, start } from "./fakes/host";

const OURS = "runner-abcdef-a-1700000000-01234567";
const LOST = "runner-abcdef-a-1700000000-00000000";
const FORMER = "runner-former-to-1700000000-76543210";
const GRACE = 600;

let google: FakeGoogle;
let folder: string;
onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});

const path = (name: string) => join(folder, name);
const store = () => path("var/lib/docker-machine/machines");
const machines = () => readdirSync(store()).sort();
const calls = (program: string) =>
  existsSync(path(`bin/${program}.calls`)) ? readFileSync(path(`bin/${program}.calls`), "utf8") : "";
const ago = (seconds: number) => new Date(Date.now() - seconds * 1000);

/** A VM at Google, by default an old one of this manager. */
function vm(name: string, instance: Partial<FakeInstance> = {}): void {
  google.instances.set(name, {
    zone: "us-central1-a",
    status: "RUNNING",
    creationTimestamp: ago(GRACE + 60)
      .toISOString()
      .replace("Z", "+00:00"),
    labels: { "gitlab-runner-manager": "gitlab-runner", team: "ci" },
    networkInterfaces: [{ networkIP: "127.0.0.2" }],
    ...instance,
  });
}

/** What a docker-machine's config.json has: upstream's notes no address, GitLab's does. */
const machine = (address = "", driver = "google") =>
  JSON.stringify({ DriverName: driver, Driver: { IPAddress: address } });

/** What docker-machine knows of a machine, by default since long. */
function known(name: string, config = machine(), age = GRACE + 60): void {
  const entry = join(store(), name);
  mkdirSync(entry, { recursive: true });
  if (config !== "") writeFileSync(join(entry, "config.json"), config);
  utimesSync(entry, ago(age), ago(age));
}

const runner = (token: string, machineName = "%s") =>
  `[[runners]]\n  name = "a"\n  token = "${token}"\n  [runners.machine]\n    MachineName = "${machineName}"\n`;
function configToml(text: string): void {
  mkdirSync(path("etc/gitlab-runner"), { recursive: true });
  writeFileSync(path("etc/gitlab-runner/config.toml"), `concurrent = 1\n${text}`);
}

const program = join(cloudInit, "runner-host/workers");
const surroundings = (grace = GRACE) => ({
  ...google.environment,
  HOST_ROOT: folder,
  PYTHONPATH: join(cloudInit, "host"),
  REAPER_GRACE_SECONDS: `${grace}`,
  PATH: pathWith(path("bin")),
});
const workers = (command: string, grace = GRACE, environment = {}) =>
  run(program, [command], { ...surroundings(grace), ...environment });
async function reap(grace?: number): Promise<string> {
  const { status, stdout, stderr } = await workers("reap", grace);
  expect({ status, stdout, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stdout: "", stderr: "" });
  return stderr;
}

beforeEach(() => {
  mkdirSync(store(), { recursive: true });
  configToml(runner("glrt-t1_abc_def-and-the-rest"));
  recorder(path("bin"), "systemctl", 'echo "${STATE:-active}"');
  recorder(path("bin"), "docker", "exit 1");
});

describe("reap deletes a VM that docker-machine does not know", () => {
  test("with its folder of the store, and says why", async () => {
    vm(OURS);
    known(OURS);
    vm(LOST, { zone: "us-central1-b", status: "TERMINATED" });
    known(LOST, "");
    expect(await reap()).toBe(
      `Deleting the worker VM ${LOST} in zones/us-central1-b: docker-machine does not know it\n`,
    );
    expect(google.deleted).toEqual([LOST]);
    expect(machines()).toEqual([OURS]);
    expect(await reap()).toBe("");
  });

  test.each(["", "{", "[]"])("with config.json %j", async (config) => {
    vm(LOST);
    known(LOST, config);
    await reap();
    expect(google.deleted).toEqual([LOST]);
  });

  test("after the grace period", async () => {
    vm(LOST, { creationTimestamp: ago(GRACE - 30).toISOString() });
    expect(await reap()).toBe("");
    expect(google.deleted).toEqual([]);
    await reap(GRACE - 60);
    expect(google.deleted).toEqual([LOST]);
  });

  test("but not while docker-machine makes it", async () => {
    vm(LOST);
    const creating = spawn(
      "bash",
      ["-c", `exec -a /usr/local/bin/docker-machine tail -f /dev/null --pid=$$ -- create --driver google ${LOST}`],
      { stdio: "ignore" },
    );
    try {
      await once(creating, "spawn");
      await new Promise((resolve) => setTimeout(resolve, 200));
      await reap();
      expect(google.deleted).toEqual([]);
    } finally {
      await killed(creating);
    }
    await reap();
    expect(google.deleted).toEqual([LOST]);
  });

  test("but not while it is on its way out", async () => {
    vm(LOST, { status: "STOPPING" });
    await reap();
    expect(google.deleted).toEqual([]);
  });

  test.each([
    ["of another manager", { labels: { "gitlab-runner-manager": "gitlab-runner-2" } }],
    ["without labels", { labels: undefined }],
  ])("but none %s, even if Google shows it", async (_, instance) => {
    vm(LOST, instance);
    google.ignoresFilter = true;
    await reap();
    expect((await workers("remove-all")).stdout).toBe("0 worker VMs deleted\n");
    expect(google.deleted).toEqual([]);
  });

  test("but never the manager itself, whatever its labels are", async () => {
    vm("gitlab-runner");
    await reap();
    expect((await workers("remove-all")).stdout).toBe("0 worker VMs deleted\n");
    expect(google.deleted).toEqual([]);
  });

  test("and goes on when one of them cannot be deleted", async () => {
    vm(LOST);
    vm(OURS);
    google.undeletable.add(LOST);
    const { status, stderr } = await workers("reap");
    expect(status).toBe(75);
    expect(stderr).toContain("Compute Engine answers 400 to DELETE zones/us-central1-a/instances/" + LOST);
    expect(stderr).not.toContain("Traceback");
    expect(google.deleted).toEqual([OURS]);
  });
});

describe("reap deletes a VM that no runner has any more", () => {
  // A VM of a token that was there before, on which there is a container of that type.
  function former(type = ""): void {
    vm(FORMER);
    known(FORMER);
    recorder(
      path("bin"),
      "docker",
      `certificates=${store()}/${FORMER}
       [[ "$*" == "--host tcp://127.0.0.2:2376 --tlsverify --tlscacert $certificates/ca.pem --tlscert $certificates/cert.pem --tlskey $certificates/key.pem ps --filter label=com.gitlab.gitlab-runner.managed=true --format {{.Label \\"com.gitlab.gitlab-runner.type\\"}}" ]] || exit 64
       echo "${type}"`,
    );
  }
  const soon = async () => {
    await reap(1);
    expect(google.deleted).toEqual([]);
    await new Promise((resolve) => setTimeout(resolve, 1200));
    return reap(1);
  };

  test("once it was without a job for the whole grace period", async () => {
    vm(OURS);
    known(OURS);
    former("service");
    await reap();
    expect(google.deleted).toEqual([]);
    expect(await soon()).toBe(
      `Deleting the worker VM ${FORMER} in zones/us-central1-a: no runner in config.toml has VMs of such a name any more, and for 1 s it ran no job\n`,
    );
    expect(google.deleted).toEqual([FORMER]);
    expect(machines()).toEqual([OURS]);
  });

  test.each(["build", "predefined"])("but not while a job's container runs: %s", async (type) => {
    former(type);
    expect(await soon()).toBe("");
    former();
    expect(await reap(1)).toBe("");
    await new Promise((resolve) => setTimeout(resolve, 1200));
    await reap(1);
    expect(google.deleted).toEqual([FORMER]);
  });

  test("also when its Docker does not answer, or it is off", async () => {
    vm(FORMER, { status: "TERMINATED", networkInterfaces: [] });
    known(FORMER);
    await soon();
    expect(google.deleted).toEqual([FORMER]);
    expect(calls("docker")).toBe("");
  });

  test("and asks many that do not answer at the same time", async () => {
    for (const number of [1, 2, 3, 4, 5, 6, 7, 8]) {
      vm(`${FORMER}${number}`);
      known(`${FORMER}${number}`);
    }
    recorder(path("bin"), "docker", "sleep 2");
    const before = Date.now();
    await reap();
    expect(calls("docker").split("\n")).toHaveLength(8 + 1);
    expect(Date.now() - before).toBeLessThan(8000);
  });

  const memory = () => path("var/lib/gitlab-runner-gce/workers.json");
  function remembered(since: Date, written: Date): void {
    mkdirSync(path("var/lib/gitlab-runner-gce"), { recursive: true });
    writeFileSync(memory(), JSON.stringify({ [FORMER]: since.getTime() / 1000 }));
    utimesSync(memory(), written, written);
  }

  test("but not by what it knew before it could not look for long: a job may have run meanwhile", async () => {
    former();
    remembered(ago(GRACE + 60), ago(GRACE + 60));
    await reap();
    expect(google.deleted).toEqual([]);
    remembered(ago(GRACE + 60), ago(60));
    await reap();
    expect(google.deleted).toEqual([FORMER]);
  });

  test("later where the disk is full; the others go now", async () => {
    former();
    vm(LOST);
    mkdirSync(`${memory()}.new`, { recursive: true }); // as good as no room: it cannot be written
    const { status, stderr } = await workers("reap", 1);
    expect({ status, deleted: google.deleted }).toEqual({ status: 0, deleted: [LOST] });
    expect(stderr.split("\n")).toEqual([
      `${memory()} cannot be written: Is a directory; VMs of no runner are deleted later. Look at: df -h ${path("var/lib/gitlab-runner-gce")}`,
      expect.stringMatching(/^Deleting the worker VM /),
      "",
    ]);
  });

  test("since the pattern of the names is another", async () => {
    vm(OURS);
    known(OURS);
    configToml(runner("glrt-t1_abc_def-and-the-rest", "ci-%s"));
    await soon();
    expect(google.deleted).toEqual([OURS]);
  });

  test("but none when what is remembered cannot be read: the grace period begins anew", async () => {
    former();
    mkdirSync(path("var/lib/gitlab-runner-gce"), { recursive: true });
    writeFileSync(path("var/lib/gitlab-runner-gce/workers.json"), "[1");
    await reap(1);
    expect(google.deleted).toEqual([]);
  });

  test.each([
    ["config.toml is missing", undefined],
    ["it has no runner", ""],
    ["one of its runners has no token that can be read", runner("glrt-abc_def-and-the-rest") + runner("$TOKEN")],
    ["one of its runners has no token", `${runner("glrt-abc_def-and-the-rest")}[[runners]]\n  name = "b"\n`],
  ])("but none when %s", async (_, text) => {
    former();
    if (text === undefined) rmSync(path("etc/gitlab-runner/config.toml"));
    else configToml(text);
    known("runner-former-to-1700000000-77777777");
    await soon();
    expect(google.deleted).toEqual([]);
    expect(machines()).toHaveLength(2);
  });
});

// As gitlab-runner's helpers.ShortenToken and dns.MakeRFC1123Compatible have it.
test.each([
  ["glrt-Xyz1234567890", "xyz123456"],
  ["glrt-t3_ABCdef-hij-klm", "abcdef-hi"],
  ["t1_abcdefghijkl", "abcdefghi"],
  ["glrtr-abcdefghijkl", "abcdefghi"],
  ["GR1348941abcdefghijkl", "abcdefghi"],
  ["glrt--bcdefghijkl", "r-bcdefgh"],
  ["glrt-abc_def-_ijkl", "abcdef-r"],
  ["short", "short"],
])("a VM of the runner with the token %s begins with runner-%s-", async (token, short) => {
  const name = `runner-${short}-1700000000-01234567`;
  vm(name);
  known(name);
  configToml(runner(token) + runner("glrt-another"));
  await reap(0);
  await reap(0);
  expect(google.deleted).toEqual([]);
  configToml(runner("glrt-another"));
  await reap(0);
  expect(google.deleted).toEqual([name]);
});

describe("the store of docker-machine", () => {
  test("loses what is half made or of no runner, where there is no VM", async () => {
    known(LOST, "");
    known(FORMER);
    known(OURS);
    known("certificates", JSON.stringify({ DriverName: "none" }));
    const stderr = await reap();
    expect(stderr).toContain(`machines/${LOST}: there is no such VM, and docker-machine cannot read its config.json\n`);
    expect(stderr).toContain(`machines/${FORMER}: there is no such VM, and no runner in config.toml has VMs of such`);
    expect(machines()).toEqual(["certificates", OURS]);
  });

  test("keeps what is new", async () => {
    known(LOST, "", GRACE - 30);
    expect(await reap()).toBe("");
    expect(machines()).toEqual([LOST]);
  });

  test("keeps all of it while Google cannot look into every zone", async () => {
    google.unreachableZones.push("us-central1-b");
    known(FORMER);
    vm(LOST);
    await reap();
    expect(machines()).toEqual([FORMER]);
    expect(google.deleted).toEqual([LOST]);
  });
});

describe("what Google refuses", () => {
  test("to list: a sentence with the permission, and nothing is touched", async () => {
    google.lacking.add("compute.instances.list");
    known(LOST, "");
    const { status, stderr } = await workers("reap");
    expect(status).toBe(75);
    expect(stderr).toBe(
      `the service account ${google.email} lacks the permission compute.instances.list; add it to a role that it has in the project ` +
        "my-project (Compute Engine says: Required 'compute.instances.list' permission for 'aggregated/instances')\n",
    );
    expect(machines()).toEqual([LOST]);
  });

  test("to delete: the store keeps the machine", async () => {
    google.lacking.add("compute.instances.delete");
    vm(LOST);
    known(LOST, "");
    const { status, stderr } = await workers("reap");
    expect(status).toBe(75);
    expect(stderr).toContain("lacks the permission compute.instances.delete");
    expect(machines()).toEqual([LOST]);
  });

  test("fails with a sentence for now, and nothing is touched", async () => {
    google.computeStatus = 503;
    known(LOST, "");
    const { status, stderr } = await workers("reap");
    expect(status).toBe(75);
    expect(stderr).toMatch(/^Compute Engine answers 503 to GET aggregated.instances.*: Backend Error\n$/);
    expect(machines()).toEqual([LOST]);
  });

  test("does not answer: a sentence", async () => {
    const { status, stderr } = await workers("reap", GRACE, { GCE_METADATA_HOST: "127.0.0.1:1" });
    expect(status).toBe(75);
    expect(stderr).toMatch(/^the metadata server at http:.* does not answer name: /);
  });
});

describe("a worker hears of its manager", () => {
  let server: Server;
  let heard: number;
  beforeEach(async () => {
    heard = 0;
    server = createServer((socket) => {
      heard += 1;
      socket.destroy();
    }).listen(2376, "127.0.0.2");
    await once(server, "listening");
    known(OURS);
  });
  afterEach(() => server.close());

  test("by a connection to its Docker", async () => {
    vm(OURS);
    await reap();
    expect(heard).toBe(1);
  });

  test("by one, if its address is in the store too", async () => {
    known(OURS, machine("127.0.0.2"));
    vm(OURS);
    await reap();
    expect(heard).toBe(1);
  });

  test.each<[string, () => object]>([
    ["its API is out of order", () => ({ fake: (google.computeStatus = 503) })],
    ["it refuses the list", () => ({ fake: google.lacking.add("compute.instances.list") })],
    ["the metadata server does not answer", () => ({ GCE_METADATA_HOST: "127.0.0.1:1" })],
  ])("by the address in the store, whatever Google says: %s", async (_, trouble) => {
    known(OURS, machine("127.0.0.2"));
    vm(OURS);
    expect((await workers("reap", GRACE, trouble())).status).toBe(75);
    expect(heard).toBe(1);
  });

  test("before this waits for anything", async () => {
    known(OURS, machine("127.0.0.2"));
    const state = path("var/lib/gitlab-runner-gce");
    mkdirSync(state, { recursive: true });
    const other = spawn("flock", [state, "tail", "-f", "/dev/null"], { stdio: "ignore", detached: true });
    await once(other, "spawn");
    await new Promise((resolve) => setTimeout(resolve, 200));
    const reaper = start(program, ["reap"], surroundings());
    try {
      await eventually("heard", () => heard === 1, 5);
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(reaper.status).toBeNull();
    } finally {
      process.kill(-other.pid!, "SIGKILL");
    }
    expect(await reaper.ended).toMatchObject({ status: 0, stderr: "" });
  });

  test("but not one that is off, or is deleted, or is just made", async () => {
    vm(OURS, { status: "TERMINATED" });
    vm(LOST);
    vm(FORMER, { creationTimestamp: ago(1).toISOString() });
    await reap();
    expect(heard).toBe(0);
  });

  test.each([
    machine("127.0.0.2", "none"),
    machine("x".repeat(64)),
    '{"DriverName": "google", "Driver": null}',
    '{"DriverName": "google", "Driver": {"IPAddress": 1}}',
  ])("but nobody by a store with %s", async (config) => {
    known(OURS, config);
    await reap();
    expect(heard).toBe(0);
  });

  test.each([
    ["inactive", 0],
    ["failed", 0],
    ["deactivating", 1],
  ])("if gitlab-runner is there: %s", async (state, connections) => {
    recorder(path("bin"), "systemctl", `echo ${state}`);
    vm(OURS);
    await reap();
    expect(calls("systemctl")).toBe("show -p ActiveState --value gitlab-runner.service\n");
    expect(heard).toBe(connections);
    known(OURS, machine("127.0.0.2"));
    await reap();
    expect(heard).toBe(2 * connections);
  });
});

describe("remove-all", () => {
  test("deletes every VM of this manager, waits for their end, and empties the store", async () => {
    vm(OURS);
    known(OURS);
    vm(LOST, { creationTimestamp: ago(1).toISOString(), zone: "us-central1-b" });
    vm(FORMER, { status: "STOPPING" });
    setTimeout(() => google.instances.delete(FORMER), 3500);
    vm("somebody-elses", { labels: { "gitlab-runner-manager": "another" } });
    known("half", "");
    expect(await workers("remove-all")).toEqual(
      expect.objectContaining({ status: 0, stdout: "2 worker VMs deleted\n", stderr: "" }),
    );
    expect([...google.instances.keys()]).toEqual(["somebody-elses"]);
    expect(machines()).toEqual([]);
    expect((await workers("remove-all")).stdout).toBe("0 worker VMs deleted\n");
  });

  test("asks again where Google has no answer for a while", async () => {
    vm(LOST);
    google.computeStatus = 503;
    setTimeout(() => (google.computeStatus = 200), 1500);
    const { status, stdout, stderr } = await workers("remove-all");
    expect({ status, stdout }).toEqual({ status: 0, stdout: "1 worker VMs deleted\n" });
    expect(stderr).toMatch(/^Trying again: Compute Engine answers 503 to GET aggregated.instances.*: Backend Error\n/);
  });

  test("does not say so if there may be more", async () => {
    google.unreachableZones.push("us-central1-b");
    vm(LOST, { zone: "us-central1-b" });
    known(LOST);
    const { status, stdout, stderr } = await workers("remove-all");
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toContain("Compute Engine cannot look into every zone now");
    expect(machines()).toEqual([LOST]);
  });

  test("fails with a sentence where it may not", async () => {
    google.lacking.add("compute.instances.delete");
    vm(LOST);
    const { status, stdout, stderr } = await workers("remove-all");
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toContain("lacks the permission compute.instances.delete");
  });
});

async function killed(child: ChildProcess): Promise<void> {
  const end = once(child, "close");
  child.kill("SIGKILL");
  await end;
}
