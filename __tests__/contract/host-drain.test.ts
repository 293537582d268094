import { execFileSync } from "node:child_process";
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
const seconds = (number: number) => new Promise((resolve) => setTimeout(resolve, number * 1000));

describe("drain, on the host", () => {
  const drained = "var/lib/gitlab-runner-gce/drained";

  // A gitlab-runner that, asked to stop, takes its time until the file "jobs" is gone; SIGTERM ends it at once, if it is not "stubborn".
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
         "kill --kill-who=main --signal=SIGTERM gitlab-runner.service") [[ -e ${path("stubborn")} ]] || rm ${path("jobs")} ;;
         "kill --signal=SIGKILL gitlab-runner.service") rm ${path("jobs")}; echo failed >$state ;;
         *) exit 64 ;;
       esac`,
    );
    writeFileSync(path("state"), "active\n");
    writeFileSync(path("jobs"), "");
    mkdirSync(path("lib"));
    symlinkSync(join(cloudInit, "host/host.sh"), path("lib/host.sh"));
    recorder(path("lib"), "workers", `[[ $(cat ${path("state")}) == inactive ]] && echo "2 worker VMs deleted"`);
    mkdirSync(path("etc/gitlab-runner"), { recursive: true });
    config("");
    jobs(1);
  });

  const jobs = (number: number) =>
    google.files.set(
      "/metrics",
      `gitlab_runner_jobs_total 7\ngitlab_runner_jobs{state="running",stage="step_script"} ${number}\n`,
    );
  const config = (more: string) =>
    writeFileSync(path("etc/gitlab-runner/config.toml"), `listen_address = "${google.address}"\n${more}`);
  const drainWith = (environment: Record<string, string>, ...args: string[]): Running => {
    const running = start("bash", [join(cloudInit, "runner-host/drain"), ...args], {
      ...google.environment,
      HOST_ROOT: folder,
      HOST_LIB: path("lib"),
      DRAIN_POLL: "0.2",
      PATH: pathWith(path("bin")),
      ...environment,
    });
    started.push(running);
    return running;
  };
  const drain = (...args: string[]) => drainWith({}, ...args);
  const jobsAreCounted = (running: Running) =>
    eventually("the jobs are counted", () => running.stdout.includes("1 jobs run, for which it waits until 20"));

  test("waits for the running jobs, and deletes the workers when gitlab-runner has ended", async () => {
    const running = drain("drain");
    await jobsAreCounted(running);
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

  test.each([
    ["its shutdown_timeout", "0", "shutdown_timeout = 2\n"],
    ["the 30 s of GitLab Runner's default", "-28", "[[runners]]\nshutdown_timeout = 60\n"],
  ])("kills a gitlab-runner that does not end within %s, and a little more", async (_, more, table) => {
    config(table);
    writeFileSync(path("stubborn"), "");
    const running = drainWith({ DRAIN_LAST_SECONDS: more }, "drain", "--timeout", "0");
    const told = () => calls("bin/systemctl").includes("--signal=SIGTERM");
    await eventually("it is told to end", told);
    await seconds(1);
    expect(calls("bin/systemctl")).not.toContain("SIGKILL");
    expect(await running.ended).toMatchObject({ status: 0 });
    expect(calls("bin/systemctl")).toContain("kill --signal=SIGKILL gitlab-runner.service\n");
  });

  test("goes on without the terminal that it was started from", async () => {
    const running = drain("drain");
    await jobsAreCounted(running);
    running.process.stdout?.destroy();
    running.process.stderr?.destroy();
    running.process.kill("SIGHUP");
    jobs(2);
    await seconds(1);
    rmSync(path("jobs"));
    expect(await running.ended).toMatchObject({ status: 0 });
    expect(calls("lib/workers")).toBe("remove-all\n");
  });

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("%s ends it, with a word of what is left", async (signal, code) => {
    const running = drain("drain");
    await jobsAreCounted(running);
    running.process.kill(signal);
    expect(await running.ended).toMatchObject({ status: code, stderr: "" });
    expect(running.stdout).toContain(
      "Interrupted: the host stays drained, and nobody deletes its workers. Go on with: sudo runner-host drain, or take jobs again with: sudo runner-host resume\n",
    );
    expect(text(drained)).toBe("operator");
    expect(calls("lib/workers")).toBe("");
    rmSync(path("jobs"));
    expect(await drain("drain").ended).toMatchObject({ status: 0 });
    expect(calls("lib/workers")).toBe("remove-all\n");
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
    const idle = "0 Terraform does not want it drained";
    const curl = execFileSync("which", ["curl"], { encoding: "utf8" }).trim();
    const says = (wanted: string | RegExp) =>
      eventually(`it says ${String(wanted)}`, () =>
        google.published.some((line) => (typeof wanted === "string" ? line === wanted : wanted.test(line))),
      );

    test("it answers the wish in the attribute with the wish's own time, once, with the limit in another", async () => {
      google.setAttribute("drain-timeout", "1");
      drain("follow");
      const request = now();
      google.setAttribute("drain-request", `${request}`);
      await says(new RegExp(`^drain=${request} draining: no new job \\([0-9:]{8}\\)$`));
      await says(/^drain=\d+ drained: after \d+ s, 1 jobs were ended at the limit of 1 s; 2 worker VMs deleted$/);
      expect(text(drained)).toBe("terraform");
      await seconds(1);
      expect(calls("lib/workers")).toBe("remove-all\n");
    });

    test("it goes on when the attribute is gone, or nobody came back for it", async () => {
      rmSync(path("jobs"));
      google.setAttribute("drain-timeout", "1");
      google.setAttribute("drain-request", `${now()}`);
      drain("follow");
      await says(/ drained: /);
      google.attributes.delete("drain-request");
      await says(`drain=${idle}`);
      expect(text("state")).toBe("active\n");
      google.published.length = 0;
      google.setAttribute("drain-request", `${now()}`);
      await says(/ drained: /);
      google.setAttribute("drain-request", `${now() - 902}`);
      await says(`drain=${idle}`);
    });

    test("it says from the start that it is there, as soon as somebody hears it", async () => {
      recorder(path("bin"), "curl", `[[ "$*" != *PUT* || ! -e ${path("unheard")} ]] || exit 22\nexec ${curl} "$@"`);
      writeFileSync(path("unheard"), "");
      drain("follow");
      await eventually("it tries again", () => calls("bin/curl").split(" PUT ").length > 3);
      rmSync(path("unheard"));
      await says(`drain=${idle}`);
      await seconds(1);
      expect(google.published).toEqual([`drain=${idle}`]);
    });

    test("it does not say so when it is there for a wish", async () => {
      rmSync(path("jobs"));
      google.setAttribute("drain-request", `${now()}`);
      drain("follow");
      await says(/ drained: /);
      expect(google.published).not.toContain(`drain=${idle}`);
    });

    test("it says that it waits for an operator's drain, answers after that, and leaves the host to the operator", async () => {
      const operators = drain("drain");
      await jobsAreCounted(operators);
      const request = now();
      google.setAttribute("drain-request", `${request}`);
      drain("follow");
      await says(new RegExp(`^drain=${request} draining: waits for the drain of this host that was begun before `));
      rmSync(path("jobs"));
      expect(await operators.ended).toMatchObject({ status: 0 });
      await says(/^drain=\d+ drained: after \d+ s, every job has ended/);
      google.attributes.delete("drain-request");
      await says(`drain=${idle}`);
      expect(text(drained)).toBe("operator");
      expect(text("state")).toBe("inactive\n");
    });

    test("its answer stands for a while, also when it comes late", async () => {
      const operators = drain("drain");
      await jobsAreCounted(operators);
      google.setAttribute("drain-timeout", "1");
      // In two seconds it is as if nobody had come back for it.
      google.setAttribute("drain-request", `${now() - 899}`);
      drain("follow");
      await says(/ draining: waits for the drain /);
      await seconds(3);
      rmSync(path("jobs"));
      await says(/ drained: /);
      await seconds(1);
      expect(google.published.at(-1)).toMatch(/ drained: /);
    });

    test("it gives a sign of life again and again, whatever it waits for, and tells its journal once", async () => {
      const times = (sentence: string) =>
        new Set(google.published.filter((line) => line.includes(` draining: ${sentence}`))).size;
      const operators = drain("drain");
      await jobsAreCounted(operators);
      google.setAttribute("drain-request", `${now()}`);
      const follower = drainWith({ DRAIN_BEAT: "1" }, "follow");
      await eventually("it waits for the operator's drain", () => times("waits for the drain ") > 1);
      operators.process.kill("SIGKILL");
      await eventually("it waits for jobs", () => times("1 jobs run, for which it waits until ") > 1);
      expect(follower.stdout.split("waits for the drain ")).toHaveLength(2);
      rmSync(path("jobs"));
      await says(/ drained: /);
    });

    test("a wish that comes in the middle of its drain is answered after it", async () => {
      const request = now();
      google.setAttribute("drain-request", `${request - 1}`);
      drain("follow");
      await says(new RegExp(`^drain=${request - 1} draining: 1 jobs run`));
      google.setAttribute("drain-request", `${request}`);
      rmSync(path("jobs"));
      await says(new RegExp(`^drain=${request} drained: `));
    });

    test("what an operator wants as well stays so", async () => {
      rmSync(path("jobs"));
      google.setAttribute("drain-request", `${now()}`);
      drain("follow");
      await says(/ drained: /);
      expect(text(drained)).toBe("terraform");
      await drain("drain").ended;
      google.attributes.delete("drain-request");
      await says(`drain=${idle}`);
      expect(text(drained)).toBe("operator");
    });

    test("it does not undo what an operator wanted", async () => {
      rmSync(path("jobs"));
      await drain("drain").ended;
      drain("follow");
      await seconds(1);
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
  // A gcloud that keeps what it is given, shows the files "status" and "drain", in which REQUEST is the time of the wish, and fails
  // with what is in the file "refused" or "unreachable".
  beforeEach(() => {
    recorder(
      path("bin"),
      "gcloud",
      `here="--project=my-project --zone=us-central1-a"
       fails() { [[ ! -e $1 ]] || { cat $1 >&2; exit 1; }; }
       shown() { [[ ! -e ${folder}/$1 ]] || printf '%s\\t%s\\n' $1 "$(sed "s/REQUEST/$(cat ${path("request")})/" ${folder}/$1)"; }
       echo "Updates are available for some Google Cloud CLI components." >&2
       case "$*" in
         "compute instances add-metadata gitlab-runner $here --metadata=drain-request="*)
           last=\${!#}; echo "\${last##*=}" >${path("request")}; fails ${path("refused")} ;;
         "compute instances get-guest-attributes gitlab-runner $here --query-path=gitlab-runner/ --format=value(key,value)")
           fails ${path("unreachable")}; shown status; shown drain ;;
         "compute instances remove-metadata gitlab-runner $here --keys=drain-request") fails ${path("refused")} ;;
         *) exit 64 ;;
       esac`,
    );
    writeFileSync(path("request"), "");
    writeFileSync(path("status"), "ready");
    says("0 Terraform does not want it drained");
  });

  const says = (value: string) => writeFileSync(path("drain"), value);
  const script = (environment: Record<string, string> = {}) =>
    start("sh", [join(cloudInit, "drain.sh")], {
      PROJECT: "my-project",
      ZONE: "us-central1-a",
      INSTANCE: "gitlab-runner",
      WANTED: "drain",
      POLL_SECONDS: "0.1",
      ANSWER_SECONDS: "1",
      CLOUDSDK_AUTH_ACCESS_TOKEN: "token",
      PATH: pathWith(path("bin")),
      ...environment,
    });

  const hearsOfTheEnd = async (running: Running) => {
    says("REQUEST drained: after 9 s");
    expect(await running.ended).toMatchObject({ status: 0, stderr: "" });
    expect(running.stdout).toContain("gitlab-runner: drained: after 9 s\n");
  };

  test("waits until the host says so, and repeats what it says", async () => {
    says("REQUEST draining: 1 jobs run");
    const running = script();
    await eventually("it repeats it", () => running.stdout.includes("gitlab-runner: draining: 1 jobs run\n"));
    await hearsOfTheEnd(running);
  });

  test.each(["is unreachable", "restarts"])(
    "a host that has answered has time to come back when it %s",
    async (what) => {
      says("REQUEST draining: 1 jobs run (12:00:00)");
      const running = script({ LOST_SECONDS: "5" });
      await eventually("it answers", () => running.stdout.includes("1 jobs run"));
      await seconds(3);
      says("REQUEST draining: 1 jobs run (12:01:00)");
      await seconds(2.5);
      if (what === "restarts") says("0 Terraform does not want it drained");
      else writeFileSync(path("unreachable"), "ERROR: 503 Backend Error\n");
      await seconds(1.5);
      rmSync(path("unreachable"), { force: true });
      await hearsOfTheEnd(running);
    },
  );

  test("but not for ever", async () => {
    says("REQUEST draining: 1 jobs run");
    const running = script({ LOST_SECONDS: "2" });
    await eventually("it answers", () => running.stdout.includes("1 jobs run"));
    writeFileSync(path("unreachable"), "ERROR: 503 Backend Error\n");
    expect(await running.ended).toMatchObject({ status: 0 });
    expect(running.stderr).toMatch(
      /^gitlab-runner is not drained: no answer for [2-4] s, after it said: draining: 1 jobs run; gcloud says: .*\nERROR: 503 Backend Error\n/,
    );
  });

  test("that the machine of Terraform slept is no silence of the host", async () => {
    recorder(path("bin"), "date", `if [[ -e ${path("slept")} ]]; then echo 1800005000; else echo 1800000000; fi`);
    says("REQUEST draining: 1 jobs run");
    const running = script();
    await eventually("it answers", () => running.stdout.includes("1 jobs run"));
    writeFileSync(path("unreachable"), "ERROR: no network yet\n");
    writeFileSync(path("slept"), "");
    await seconds(1);
    rmSync(path("unreachable"));
    await hearsOfTheEnd(running);
  });

  test("a host that still drains for an earlier wish is waited for until it answers this one", async () => {
    says("1700000000 draining: 1 jobs run (12:00:00)");
    const running = script();
    await eventually("it asks", () => calls("bin/gcloud").includes("add-metadata"));
    says("1700000000 draining: 1 jobs run (12:01:00)");
    await eventually("it repeats it", () => running.stdout.includes("gitlab-runner: draining: 1 jobs run\n"));
    says("1700000000 drained: after 9 s");
    await seconds(1);
    expect(running.status).toBe(null);
    says("REQUEST drained: after 0 s");
    expect(await running.ended).toMatchObject({ status: 0, stderr: "" });
    expect(running.stdout).toContain("gitlab-runner: drained: after 0 s\n");
  });

  test("that the host says the same with a later time is a sign of life, which is told once", async () => {
    says("REQUEST draining: 1 jobs run (12:00:00)");
    const running = script({ LOST_SECONDS: "3" });
    await eventually("it answers", () => running.stdout.includes("1 jobs run"));
    await seconds(1.9);
    says("REQUEST draining: 1 jobs run (12:01:00)");
    await seconds(1.9);
    says("REQUEST drained: after 9 s");
    expect(await running.ended).toMatchObject({ status: 0, stderr: "" });
    expect(running.stdout).toMatch(
      /time to end …\ngitlab-runner: draining: 1 jobs run\ngitlab-runner: drained: after 9 s\n$/,
    );
  });

  test.each([
    ["does not answer", "0 Terraform does not want it drained", /no answer for [1-3] s; does it run\?\n/],
    ["answers an earlier wish", "1700000000 drained: after 9 s", /no answer for [1-3] s; does it run\?\n/],
    [
      "hung in the drain for an earlier wish",
      "1700000000 draining: 1 jobs run (12:00:00)",
      /no answer for [1-3] s; does it run\?\n/,
    ],
    ["does not come to an end", "REQUEST draining: 1 jobs run", /it does not end, and says: draining: 1 jobs run\n/],
  ])("a host that %s does not keep Terraform from its work", async (_, answer, problem) => {
    says(answer);
    const { status, stderr } = await script({ LAST_SECONDS: "1" }).ended;
    expect(status).toBe(0);
    expect(stderr).toMatch(new RegExp(`^gitlab-runner is not drained: ${problem.source}`));
    expect(stderr).toContain("--command='sudo runner-host drain'");
  });

  test("nor does one that hangs: what it published stays", async () => {
    says("REQUEST draining: 1 jobs run (12:00:00)");
    const { status, stderr } = await script({ LOST_SECONDS: "1" }).ended;
    expect(status).toBe(0);
    expect(stderr).toMatch(
      /^gitlab-runner is not drained: no answer for [1-3] s, after it said: draining: 1 jobs run; does it run\?\n/,
    );
  });

  test.each([
    ["failed: packages: no such key", ", and says: failed: packages: no such key"],
    [undefined, ""],
  ])("a host that never got so far as to run jobs has nothing to drain (%s)", async (state, words) => {
    rmSync(path("drain"));
    rmSync(path("status"));
    if (state !== undefined) writeFileSync(path("status"), state);
    const { status, stdout, stderr } = await script().ended;
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toBe(`gitlab-runner never got so far as to run jobs${words}. There is nothing to drain.\n`);
    expect(calls("bin/gcloud")).not.toContain("add-metadata");
  });

  test.each([
    [
      "was not ready but runs jobs",
      () => writeFileSync(path("status"), "failed: gitlab-runner: GitLab refuses a token"),
    ],
    ["is ready, whatever it could publish", () => rmSync(path("drain"))],
    ["nobody can say anything of", () => writeFileSync(path("unreachable"), "ERROR: not found\n")],
  ])("a host that %s is asked to drain itself", async (_, prepare) => {
    prepare();
    const running = script();
    await eventually("it is asked", () => calls("bin/gcloud").includes("add-metadata"));
    rmSync(path("unreachable"), { force: true });
    await hearsOfTheEnd(running);
  });

  test("tells why gcloud could not ask", async () => {
    writeFileSync(path("unreachable"), "ERROR: HTTPError 404: not found\n");
    const { status, stderr } = await script().ended;
    expect(status).toBe(0);
    expect(stderr).toMatch(
      /^gitlab-runner is not drained: no answer for [1-3] s; gcloud says: .*\nERROR: HTTPError 404: not found\n/,
    );
  });

  test("tells why gcloud cannot", async () => {
    writeFileSync(path("refused"), "ERROR: Required 'compute.instances.setMetadata' permission");
    const { status, stderr } = await script().ended;
    expect(status).toBe(0);
    expect(stderr).toMatch(/is not drained: .*\nERROR: Required 'compute.instances.setMetadata' permission\n/);
  });

  test("without gcloud it says so", async () => {
    rmSync(path("bin/gcloud"));
    // Not the whole PATH: there may be a gcloud on this machine.
    for (const name of ["date", "sh"]) symlinkSync((await run("which", [name])).stdout.trim(), path(`bin/${name}`));
    const { status, stderr } = await script({ PATH: path("bin") }).ended;
    expect(status).toBe(0);
    expect(stderr).toContain("gitlab-runner is not drained: there is no gcloud here.\n");
  });

  describe("resume", () => {
    const call =
      "compute instances remove-metadata gitlab-runner --project=my-project --zone=us-central1-a --keys=drain-request";

    test("takes the wish back", async () => {
      expect(await script({ WANTED: "resume" }).ended).toMatchObject({ status: 0, stdout: "", stderr: "" });
      expect(calls("bin/gcloud")).toBe(`${call}\n`);
    });

    test("is silent where gcloud is not logged in: nothing was drained from there", async () => {
      const { status, stdout, stderr } = await script({ WANTED: "resume", CLOUDSDK_AUTH_ACCESS_TOKEN: "" }).ended;
      expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "", stderr: "" });
      expect(calls("bin/gcloud")).toBe("auth print-access-token\n");
    });

    test("tries again when that fails", async () => {
      writeFileSync(path("refused"), "ERROR: Backend Error\n");
      const running = script({ WANTED: "resume", POLL_SECONDS: "0.5" });
      await eventually("it tries", () => calls("bin/gcloud") !== "");
      rmSync(path("refused"));
      expect(await running.ended).toMatchObject({ status: 0, stdout: "", stderr: "" });
      expect(calls("bin/gcloud")).toBe(`${call}\n`.repeat(2));
    });

    test("says what to do when that fails for good, and does not fail the apply", async () => {
      writeFileSync(path("refused"), "ERROR: Required 'compute.instances.setMetadata' permission\n");
      const { status, stderr } = await script({ WANTED: "resume" }).ended;
      expect(status).toBe(0);
      expect(stderr).toContain("ERROR: Required 'compute.instances.setMetadata' permission\n");
      expect(stderr).toContain(`Tell it by hand: gcloud ${call}\n`);
      expect(calls("bin/gcloud")).toBe(`${call}\n`.repeat(4));
    });
  });
});
