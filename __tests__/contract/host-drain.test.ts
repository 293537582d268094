import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, eventually, onGoogle, pathWith, recorder, run, type Running, start } from "./fakes/host";

let google: FakeGoogle;
let folder: string;
const started: Running[] = [];
onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});
afterEach(() => started.splice(0).forEach(({ process }) => process.kill()));

const path = (name: string) => join(folder, name);
const text = (name: string) => readFileSync(path(name), "utf8");
const calls = (program: string) => (existsSync(path(`${program}.calls`)) ? text(`${program}.calls`) : "");
const now = () => Math.floor(Date.now() / 1000);

describe("drain, on the host", () => {
  const drained = "var/lib/gitlab-runner-gce/drained";

  // A gitlab-runner that, asked to stop, takes its time until the file "jobs" is gone; SIGTERM ends it at once.
  beforeEach(() => {
    recorder(
      path("bin"),
      "systemctl",
      `state=${path("state")}
       case "$*" in
         "show -p ActiveState --value gitlab-runner.service")
           [[ -e ${path("jobs")} || $(cat $state) == active ]] || echo inactive >$state
           cat $state ;;
         "stop --no-block gitlab-runner.service") echo deactivating >$state ;;
         "start --no-block gitlab-runner.service") echo active >$state ;;
         "kill --kill-who=main --signal=SIGTERM gitlab-runner.service") rm ${path("jobs")} ;;
         *) exit 64 ;;
       esac`,
    );
    writeFileSync(path("state"), "active\n");
    writeFileSync(path("jobs"), "");
    mkdirSync(path("lib"));
    symlinkSync(join(cloudInit, "host/host.sh"), path("lib/host.sh"));
    recorder(path("lib"), "workers", `[[ $(cat ${path("state")}) == inactive ]] && echo "2 worker VMs deleted"`);
    mkdirSync(path("etc/gitlab-runner"), { recursive: true });
    writeFileSync(path("etc/gitlab-runner/config.toml"), `listen_address = "${google.address}"\n`);
    jobs(1);
  });

  const jobs = (number: number) =>
    google.files.set(
      "/metrics",
      `gitlab_runner_jobs_total 7\ngitlab_runner_jobs{state="running",stage="step_script"} ${number}\n`,
    );
  const drain = (...args: string[]): Running => {
    const running = start("bash", [join(cloudInit, "runner-host/drain"), ...args], {
      ...google.environment,
      HOST_ROOT: folder,
      HOST_LIB: path("lib"),
      DRAIN_POLL: "0.2",
      PATH: pathWith(path("bin")),
    });
    started.push(running);
    return running;
  };

  test("waits for the running jobs, and deletes the workers when gitlab-runner has ended", async () => {
    const running = drain("drain");
    await eventually("the jobs are counted", () => running.stdout.includes("1 jobs run, for which it waits until 20"));
    expect(text(drained)).toBe("operator");
    expect(calls("lib/workers")).toBe("");
    rmSync(path("jobs"));
    expect(await running.ended).toMatchObject({ status: 0, stderr: "" });
    expect(running.stdout).toMatch(/^drained: after \d+ s, every job has ended; 2 worker VMs deleted$/m);
    expect(calls("lib/workers")).toBe("remove-all\n");
    expect(await drain("drain").ended).toMatchObject({ status: 0 });
  });

  test("ends the jobs that take longer than the limit, and says how many", async () => {
    const { status, stdout } = await drain("drain", "--timeout", "1").ended;
    expect(status).toBe(0);
    expect(stdout).toContain("1 jobs were ended at the limit of 1 s; 2 worker VMs deleted\n");
    expect(calls("bin/systemctl")).toContain("kill --kill-who=main --signal=SIGTERM gitlab-runner.service\n");
  });

  test("comes to an end, and says why, when workers cannot be deleted", async () => {
    rmSync(path("jobs"));
    recorder(path("lib"), "workers", 'echo "Trying again: no answer" >&2; echo "it lacks a permission" >&2; exit 1');
    const { status, stdout } = await drain("drain").ended;
    expect(status).toBe(0);
    expect(stdout).toContain("every job has ended; not all worker VMs could be deleted: it lacks a permission\n");
  });

  test.each([["--timeout"], ["--timeout", "7201"], ["--timeout", "1h"], ["now"]])(
    "takes no %s %s: usage, and nothing is stopped",
    async (...args) => {
      const { status, stderr } = await drain("drain", ...args).ended;
      expect(status).toBe(1);
      expect(stderr).toContain("Usage: runner-host drain [--timeout SECONDS]");
      expect(calls("bin/systemctl")).toBe("");
    },
  );

  test("resume starts gitlab-runner again", async () => {
    rmSync(path("jobs"));
    await drain("drain").ended;
    expect(await drain("resume").ended).toMatchObject({ status: 0 });
    expect(existsSync(path(drained))).toBe(false);
    expect(text("state")).toBe("active\n");
  });

  describe("for Terraform", () => {
    const says = (wanted: string | RegExp) =>
      eventually(`it says ${String(wanted)}`, () =>
        google.published.some((line) => (typeof wanted === "string" ? line === wanted : wanted.test(line))),
      );

    test("it answers the wish in the attribute with the wish's own time, once, with the limit in another", async () => {
      google.setAttribute("drain-timeout", "1");
      drain("follow");
      const request = now();
      google.setAttribute("drain-request", `${request}`);
      await says(`drain=${request} draining: no new job`);
      await says(/^drain=\d+ drained: after \d+ s, 1 jobs were ended at the limit of 1 s; 2 worker VMs deleted$/);
      expect(text(drained)).toBe("terraform");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      expect(calls("lib/workers")).toBe("remove-all\n");
    });

    test("it goes on when the attribute is gone, or nobody came back for it", async () => {
      rmSync(path("jobs"));
      google.setAttribute("drain-timeout", "1");
      google.setAttribute("drain-request", `${now()}`);
      drain("follow");
      await says(/ drained: /);
      google.attributes.delete("drain-request");
      await says("drain=0 resumed");
      expect(text("state")).toBe("active\n");
      google.published.length = 0;
      google.setAttribute("drain-request", `${now()}`);
      await says(/ drained: /);
      google.setAttribute("drain-request", `${now() - 902}`);
      await says("drain=0 resumed");
    });

    test("it does not undo what an operator wanted", async () => {
      rmSync(path("jobs"));
      await drain("drain").ended;
      drain("follow");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      expect(text(drained)).toBe("operator");
    });

    test("without an answer of the metadata server it changes nothing", async () => {
      recorder(path("bin"), "curl", "exit 7");
      mkdirSync(path("var/lib/gitlab-runner-gce"), { recursive: true });
      writeFileSync(path(drained), "terraform");
      drain("follow");
      await eventually("it asks again and again", () => calls("bin/curl").split("\n").length > 3);
      expect(text(drained)).toBe("terraform");
    });
  });
});

describe("drain.sh, where Terraform runs", () => {
  // A gcloud that keeps what it is given, and answers with the file "answer", in which REQUEST is the time of the wish.
  beforeEach(() => {
    recorder(
      path("bin"),
      "gcloud",
      `here="--project=my-project --zone=us-central1-a"
       case "$*" in
         "compute instances add-metadata gitlab-runner $here --metadata=drain-request="*)
           last=\${!#}; echo "\${last##*=}" >${path("request")}; [[ ! -e ${path("refused")} ]] || { cat ${path("refused")} >&2; exit 1; } ;;
         "compute instances get-guest-attributes gitlab-runner $here --query-path=gitlab-runner/status --format=value(value)")
           cat ${path("status")} ;;
         "compute instances get-guest-attributes gitlab-runner $here --query-path=gitlab-runner/drain --format=value(value)")
           [[ -e ${path("answer")} ]] && sed "s/REQUEST/$(cat ${path("request")})/" ${path("answer")} ;;
         "compute instances remove-metadata gitlab-runner $here --keys=drain-request") ;;
         *) exit 64 ;;
       esac`,
    );
  });

  beforeEach(() => writeFileSync(path("status"), "ready\n"));

  const script = (environment: Record<string, string> = {}) =>
    start("sh", [join(cloudInit, "drain.sh")], {
      PROJECT: "my-project",
      ZONE: "us-central1-a",
      INSTANCE: "gitlab-runner",
      WANTED: "drain",
      POLL_SECONDS: "0.1",
      ANSWER_SECONDS: "1",
      PATH: pathWith(path("bin")),
      ...environment,
    });

  test("waits until the host says so, and repeats what it says", async () => {
    writeFileSync(path("answer"), "REQUEST draining: 1 jobs run");
    const running = script();
    await eventually("it repeats it", () => running.stdout.includes("gitlab-runner: draining: 1 jobs run\n"));
    writeFileSync(path("answer"), "REQUEST drained: after 9 s");
    expect(await running.ended).toMatchObject({ status: 0, stderr: "" });
    expect(running.stdout).toContain("gitlab-runner: drained: after 9 s\n");
  });

  test.each([
    ["does not answer", "", "it does not answer within 1 s; does it run, and was it ever ready?"],
    ["answers an earlier wish", "1700000000 drained: after 9 s", "it does not answer within 1 s"],
    ["does not come to an end", "REQUEST draining: 1 jobs run", "it does not end, and says: draining: 1 jobs run"],
  ])("a host that %s does not keep Terraform from its work", async (_, answer, problem) => {
    if (answer !== "") writeFileSync(path("answer"), answer);
    const { status, stderr } = await script({ LAST_SECONDS: "1" }).ended;
    expect(status).toBe(0);
    expect(stderr).toContain(`gitlab-runner is not drained: ${problem}`);
    expect(stderr).toContain("--command='sudo runner-host drain'");
  });

  test("a host that was never ready has nothing to drain", async () => {
    writeFileSync(path("status"), "failed: packages: no such key\n");
    const { status, stdout, stderr } = await script().ended;
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toBe(
      "gitlab-runner was never ready, and says: failed: packages: no such key. There is nothing to drain.\n",
    );
    expect(calls("bin/gcloud")).not.toContain("add-metadata");
  });

  test("tells why gcloud cannot", async () => {
    writeFileSync(path("refused"), "ERROR: Required 'compute.instances.setMetadata' permission");
    const { status, stderr } = await script().ended;
    expect(status).toBe(0);
    expect(stderr).toContain("is not drained: ERROR: Required 'compute.instances.setMetadata' permission\n");
  });

  test("without gcloud it says so", async () => {
    rmSync(path("bin/gcloud"));
    // Not the whole PATH: there may be a gcloud on this machine.
    for (const name of ["date", "sh"]) symlinkSync((await run("which", [name])).stdout.trim(), path(`bin/${name}`));
    const { status, stderr } = await script({ PATH: path("bin") }).ended;
    expect(status).toBe(0);
    expect(stderr).toContain("gitlab-runner is not drained: there is no gcloud here.\n");
  });

  test("resume takes the wish back", async () => {
    expect(await script({ WANTED: "resume" }).ended).toMatchObject({ status: 0, stdout: "", stderr: "" });
    expect(calls("bin/gcloud")).toBe(
      "compute instances remove-metadata gitlab-runner --project=my-project --zone=us-central1-a --keys=drain-request\n",
    );
  });
});
