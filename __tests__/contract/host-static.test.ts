import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { cloudInit, onGoogle, program, recorder, testIf } from "./fakes/host";

let folder: string;
onGoogle((_, temporary) => {
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
