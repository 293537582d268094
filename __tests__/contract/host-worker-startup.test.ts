import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, eventually, onGoogle, pathWith, recorder, run, start } from "./fakes/host";

const script = join(cloudInit, "runner-host/worker-startup.sh");

let google: FakeGoogle;
let folder: string;
onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});

const path = (name: string) => join(folder, name);
const text = (name: string) => readFileSync(path(name), "utf8");
const calls = (program: string) => (existsSync(path(`bin/${program}.calls`)) ? text(`bin/${program}.calls`) : "");
const environment = () => ({
  ...google.environment,
  ETC_DOCKER: path("etc-docker"),
  WORKER_STATE: path("state"),
  PROC_UPTIME: path("uptime"),
  WORKER_POLL: "0.1",
  PATH: pathWith(path("bin")),
});

// An iptables that remembers: which chains there are, and which rules are in them. In the file "connections" is how many
// connections each rule of the mangle table has counted.
const fakeIptables = (folder: string) => `
  all=$*
  case "$*" in
    "-w -n -L") exit 0 ;;
    *" -L DOCKER-USER") [ -e "$0.chain" ] ;;
    *" -N DOCKER-USER") : >"$0.chain" ;;
    *" -C DOCKER-USER "*) grep -qxF -- "\${all#*DOCKER-USER }" "$0.chain" ;;
    *" -I DOCKER-USER "*) printf '%s\\n' "\${all#*DOCKER-USER }" >>"$0.chain" ;;
    "-w -t mangle -C INPUT "*) grep -sqxF -- "\${all#*INPUT }" "$0.mangle" ;;
    "-w -t mangle -I INPUT "*) printf '%s\\n' "\${all#*INPUT }" >>"$0.mangle" ;;
    "-w -t mangle -v -S INPUT")
      echo "-P INPUT ACCEPT -c $RANDOM 300"
      sed "s/.*/-A INPUT & -c $(cat ${folder}/connections) 180/; s/--syn/--tcp-flags FIN,SYN,RST,ACK SYN/" "$0.mangle" ;;
    *) exit 2 ;;
  esac`;

beforeEach(() => {
  for (const name of ["iptables", "ip6tables"]) recorder(path("bin"), name, fakeIptables(folder));
  for (const name of ["systemd-run", "systemctl", "ss"]) recorder(path("bin"), name);
  recorder(path("bin"), "ip", "echo 'default via 10.128.0.1 dev ens4 proto dhcp src 10.128.0.7 metric 1024'");
  // A Docker with the containers' types in the file "containers"; a prune makes room, down to what is in "pruned".
  recorder(
    path("bin"),
    "docker",
    `case "$*" in
       "ps --filter label=com.gitlab.gitlab-runner.managed=true --format {{.Label \\"com.gitlab.gitlab-runner.type\\"}}") cat ${folder}/containers ;;
       "info -f {{.DockerRootDir}}") echo /mnt/stateful_partition/docker ;;
       "image prune -af") echo "Total reclaimed space: 1GB"; cp ${folder}/pruned ${folder}/full ;;
       "builder prune -af") [ ! -e ${folder}/old ] ;;
       *) exit 64 ;;
     esac`,
  );
  recorder(
    path("bin"),
    "df",
    `[ "$*" = "-P /mnt/stateful_partition/docker" ] || exit 64
     echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
     echo "/dev/sda1 100 50 50 $(cat ${folder}/full)% /mnt/stateful_partition"`,
  );
  for (const [name, content] of [
    ["connections", "0"],
    ["containers", ""],
    ["full", "50"],
    ["pruned", "40"],
    ["uptime", "100.01 190.3\n"],
  ])
    writeFileSync(path(name), content);
});

/** With nothing but the fakes and these on PATH: a real iptables of this machine must not be touched. */
function withoutIptables(): Record<string, string> {
  for (const name of ["iptables", "ip6tables"]) rmSync(path(`bin/${name}`));
  for (const name of ["bash", "cat", "cp", "curl", "grep", "mkdir", "mv", "sed", "timeout"])
    recorder(path("bin"), name, `PATH=${process.env.PATH} exec ${name} "$@"`);
  return { ...environment(), PATH: path("bin") };
}

describe("at boot", () => {
  test("blocks the metadata server once, keeps DNS, and hands the mirror to docker-in-docker", async () => {
    google.setAttribute("registry-mirror", 'http://10.0.0.3:6000/"\\');
    for (let i = 0; i < 2; i++) {
      const { status, stderr } = await run("bash", [script], environment());
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      expect(text("bin/iptables.chain")).toBe(
        "-d 169.254.169.254 -p tcp ! --dport 53 -j REJECT --reject-with tcp-reset\n",
      );
      expect(text("bin/ip6tables.chain")).toBe(
        "-d fd20:ce::254 -p tcp ! --dport 53 -j REJECT --reject-with tcp-reset\n",
      );
      expect(JSON.parse(text("etc-docker/daemon.json"))).toEqual({
        "registry-mirrors": ['http://10.0.0.3:6000/"\\'],
      });
    }
  });

  test("starts the watch from a copy of itself, again if it is there already, before it waits for anything", async () => {
    const bare = withoutIptables();
    recorder(path("bin"), "sleep", "exit 9"); // it would wait for an iptables
    expect((await run("/bin/bash", [script], bare)).status).toBe(9);
    expect(text("state/startup.sh")).toBe(readFileSync(script, "utf8"));
    expect(calls("systemctl")).toBe("stop gitlab-runner-worker.service\n");
    expect(calls("systemd-run")).toMatch(
      /^--quiet --collect --unit=gitlab-runner-worker .*--property=Restart=always .*/,
    );
    expect(calls("systemd-run")).toMatch(new RegExp(`bash ${path("state/startup.sh")} watch\n$`));
  });

  test("blocks the metadata server even where there can be no watch", async () => {
    recorder(path("bin"), "systemd-run", "exit 1");
    expect(await run("bash", [script], environment())).toMatchObject({
      status: 0,
      stdout: "The watch of this worker does not start.\n",
    });
    expect(text("bin/iptables.chain")).toContain("169.254.169.254");
  });
});

/** One look, at that second after the boot. */
async function look(uptime: number): Promise<string> {
  writeFileSync(path("uptime"), `${uptime}.99 1.0\n`);
  const { status, stdout, stderr } = await run("bash", [script, "look"], environment());
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}
const poweredOff = () => calls("systemctl").includes("poweroff\n");

describe("a worker whose manager is gone", () => {
  beforeEach(() => google.setAttribute("manager-timeout", "300"));

  test("powers itself off when it has heard nothing for that long", async () => {
    expect(await look(100)).toBe("");
    expect(await look(400)).toBe("");
    expect(poweredOff()).toBe(false);
    expect(await look(401)).toBe(
      "This worker powers itself off: its manager has not been heard for 301 s (manager-timeout: 300).\n",
    );
    expect(poweredOff()).toBe(true);
  });

  test("does not while it hears of it: connections from outside to SSH and Docker, counted once", async () => {
    await look(100);
    expect(text("bin/iptables.mangle")).toBe("-i ens4 -p tcp --syn --dport 22\n-i ens4 -p tcp --syn --dport 2376\n");
    await look(390);
    writeFileSync(path("connections"), "1");
    await look(401);
    await look(700);
    expect(poweredOff()).toBe(false);
    expect(text("bin/iptables.mangle").split("\n")).toHaveLength(3);
    await look(702);
    expect(poweredOff()).toBe(true);
  });

  test.each(["build", "predefined\nservice"])("does not below a job, but a day later: %j", async (types) => {
    await look(100);
    writeFileSync(path("containers"), `${types}\n`);
    await look(401);
    await look(86500);
    expect(poweredOff()).toBe(false);
    await look(86501);
    expect(poweredOff()).toBe(true);
  });

  test("does below a job's services alone, which nobody would end", async () => {
    await look(100);
    writeFileSync(path("containers"), "service\nservice\n");
    await look(401);
    expect(poweredOff()).toBe(true);
  });

  test("does where there is no Docker, nor iptables", async () => {
    const bare = withoutIptables();
    rmSync(path("bin/docker"));
    for (const uptime of [100, 401]) {
      writeFileSync(path("uptime"), `${uptime}.99 1.0\n`);
      await run("/bin/bash", [script, "look"], bare);
    }
    expect(poweredOff()).toBe(true);
  });

  test("does not where connections cannot be counted", async () => {
    recorder(path("bin"), "iptables", "exit 4");
    await look(100);
    await look(401);
    await look(801);
    expect(poweredOff()).toBe(false);
  });

  test.each([
    ["without the attribute", undefined],
    ["with one that is no number", "a while"],
  ])("waits half an hour %s", async (_, value) => {
    google.attributes.delete("manager-timeout");
    if (value !== undefined) google.setAttribute("manager-timeout", value);
    await look(100);
    await look(1900);
    expect(poweredOff()).toBe(false);
    await look(1901);
    expect(poweredOff()).toBe(true);
  });

  test("goes on with the number that it had when there is no answer", async () => {
    google.setAttribute("manager-timeout", "3600");
    await look(100);
    google.attributes.delete("manager-timeout");
    await look(3699);
    expect(poweredOff()).toBe(false);
    await look(3701);
    expect(poweredOff()).toBe(true);
  });

  test("takes a new number at once", async () => {
    await look(100);
    google.setAttribute("manager-timeout", "60");
    await look(161);
    expect(poweredOff()).toBe(true);
  });
});

describe("a worker whose disk is fuller than its mark", () => {
  const pruned = () => calls("docker").includes("image prune -af\n") && calls("docker").includes("builder prune -af\n");

  test("deletes the images and build caches that no container uses", async () => {
    writeFileSync(path("full"), "80");
    expect(await look(100)).toBe("");
    expect(pruned()).toBe(false);
    writeFileSync(path("full"), "81");
    expect(await look(110)).toBe(
      "The disk of /mnt/stateful_partition/docker was 81 % full (docker-high-water: 80): images and build caches without a container are deleted, now it is 40 %.\n",
    );
    expect(pruned()).toBe(true);
  });

  test("has its mark from an attribute", async () => {
    google.setAttribute("docker-high-water", "60");
    writeFileSync(path("full"), "61");
    await look(100);
    expect(pruned()).toBe(true);
  });

  test("says nothing where that was of no use, and takes a Docker without build caches", async () => {
    for (const name of ["full", "pruned"]) writeFileSync(path(name), "81");
    writeFileSync(path("old"), "");
    expect(await look(100)).toBe("");
    expect(pruned()).toBe(true);
  });

  test.each([
    ["a job runs", () => writeFileSync(path("containers"), "build\n")],
    [
      "somebody talks to Docker, who may just have pulled an image",
      () =>
        recorder(
          path("bin"),
          "ss",
          `[ "$*" = "-Htn state established ( sport = :2376 )" ] && echo "0 0 10.128.0.7:2376 10.128.0.2:51312"`,
        ),
    ],
  ])("waits while %s, but not close to the end", async (_, happens) => {
    happens();
    writeFileSync(path("full"), "94");
    await look(100);
    expect(pruned()).toBe(false);
    writeFileSync(path("full"), "95");
    await look(110);
    expect(pruned()).toBe(true);
  });
});

test("the watch looks again and again, whatever fails", async () => {
  recorder(path("bin"), "systemctl", "exit 1");
  mkdirSync(path("state"));
  google.setAttribute("manager-timeout", "0");
  const watch = start("bash", [script, "watch"], environment());
  try {
    await look(100);
    writeFileSync(path("uptime"), "200.0 1.0\n");
    await eventually("it looks a third time", () => calls("systemctl").split("\n").length > 3);
  } finally {
    watch.process.kill();
    await watch.ended;
  }
});
