import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, pathWith, program, recorder, run, onGoogle, testIf } from "./fakes/host";

const inCloudInit = (...paths: string[]) => paths.map((path) => join(cloudInit, path));
let folder: string;
let google: FakeGoogle;
onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});

const systemdAnalyze = program("systemd-analyze");
testIf(systemdAnalyze !== undefined)("systemd knows every line of the units", () => {
  const units = ["cache-host", "runner-host"].flatMap((host) =>
    readdirSync(join(cloudInit, host))
      .filter((name) => /\.(service|timer)$/.test(name))
      .map((name) => {
        copyFileSync(join(cloudInit, host, name), join(folder, name));
        return join(folder, name);
      }),
  );
  for (const [program, conf] of [
    ["docker", "cache-host/docker.conf"],
    ["gitlab-runner", "runner-host/gitlab-runner.conf"],
  ] as const) {
    recorder(join(folder, "bin"), program);
    const unit = join(folder, `${program}.service`);
    execFileSync("sh", ["-c", `printf '[Service]\\nExecStart=${folder}/bin/${program}\\n' >${unit}`]);
    mkdirSync(`${unit}.d`);
    copyFileSync(join(cloudInit, conf), join(`${unit}.d`, "gitlab-runner-gce.conf"));
    units.push(unit);
  }
  const { stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", ...units], {
    encoding: "utf8",
    env: { ...process.env, SYSTEMD_UNIT_PATH: `${folder}:` },
  });
  expect(stderr.split("\n").filter((line) => line !== "" && !line.includes("is not executable: No such file"))).toEqual(
    [],
  );
});

describe("worker-startup.sh", () => {
  // An iptables that remembers: which chains there are, and which rules are in them.
  const fakeIptables = `
    all=$*
    case "$*" in
      "-w -n -L") exit 0 ;;
      *" -L DOCKER-USER") [ -e "$0.chain" ] ;;
      *" -N DOCKER-USER") : >"$0.chain" ;;
      *" -C DOCKER-USER "*) grep -qxF -- "\${all#*DOCKER-USER }" "$0.chain" ;;
      *" -I DOCKER-USER "*) printf '%s\\n' "\${all#*DOCKER-USER }" >>"$0.chain" ;;
      *) exit 2 ;;
    esac`;

  test("blocks the metadata server once, keeps DNS, and hands the mirror to docker-in-docker", async () => {
    google.setAttribute("registry-mirror", 'http://10.0.0.3:6000/"\\');
    for (const name of ["iptables", "ip6tables"]) recorder(join(folder, "bin"), name, fakeIptables);
    for (let i = 0; i < 2; i++) {
      const { status, stderr } = await run("bash", inCloudInit("runner-host/worker-startup.sh"), {
        ...google.environment,
        ETC_DOCKER: join(folder, "etc-docker"),
        PATH: pathWith(join(folder, "bin")),
      });
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      expect(readFileSync(join(folder, "bin/iptables.chain"), "utf8")).toBe(
        "-d 169.254.169.254 -p tcp ! --dport 53 -j REJECT --reject-with tcp-reset\n",
      );
      expect(readFileSync(join(folder, "bin/ip6tables.chain"), "utf8")).toBe(
        "-d fd20:ce::254 -p tcp ! --dport 53 -j REJECT --reject-with tcp-reset\n",
      );
      expect(JSON.parse(readFileSync(join(folder, "etc-docker/daemon.json"), "utf8"))).toEqual({
        "registry-mirrors": ['http://10.0.0.3:6000/"\\'],
      });
    }
  });
});
