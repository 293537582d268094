import assert from "node:assert/strict";
import { until } from "../commands";
import { Lab, RUNNER_HOST } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";

/** What is done to the manager ends no job that has the time to end. */
export async function drain(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const manager = () => lab.compute.find(RUNNER_HOST);
  const work = (seconds: number) => lab.gitlab.queue("work", { SECONDS_OF_WORK: `${seconds}` });
  deployment.set({ max_builds: 10, idle_time: 300, privileged: false });
  await deployment.apply();

  await report.check("A stop of gitlab-runner waits for the job that runs", async () => {
    const job = await work(8).running();
    await manager().vm.execute(["systemctl", "stop", "gitlab-runner"], { timeoutSeconds: 60 });
    assert.equal(job.state, "success");
    await manager().vm.execute(["systemctl", "start", "gitlab-runner"]);
  });
  await report.check("So does a reboot; after it the same runner manager finds its VMs", async () => {
    const managers = [...lab.gitlab.managers.keys()];
    const job = await work(12).running();
    await manager().vm.reboot(120);
    assert.equal(job.state, "success");
    const rebooted = Date.now();
    const next = await work(1).success();
    assert.deepEqual([...lab.gitlab.managers.keys()], managers);
    assert.equal(next.worker, job.worker);
    return `next job done ${((next.ended! - rebooted) / 1000).toFixed(0)} s after the boot, on the same VM`;
  });

  await report.check("runner-host drain: no new job, the running one ends, idle workers go", async () => {
    const busy = await work(35).running();
    const other = await work(1).success();
    assert.notEqual(other.worker, busy.worker);
    const drained = manager().vm.execute(["runner-host", "drain"], { timeoutSeconds: 120 });
    await until("it drains", 10, () =>
      manager()
        .vm.execute(["test", "-e", "/var/lib/gitlab-runner-gce/drained"])
        .then(() => true),
    );
    const waiting = work(1);
    const said = await drained;
    assert.equal(busy.state, "success");
    assert.deepEqual(lab.compute.workers, []);
    assert.equal(waiting.taken, undefined, "a new job was taken");
    await manager().vm.execute(["runner-host", "resume"]);
    await waiting.success();
    return /^drained: .*$/m.exec(said)![0];
  });
  await report.check("runner-host drain --timeout: the job that takes longer is ended, GitLab knows", async () => {
    const long = await work(300).running();
    const said = await manager().vm.execute(["runner-host", "drain", "--timeout", "3"], { timeoutSeconds: 120 });
    await long.end(5);
    assert.equal(long.state, "failed");
    assert.deepEqual(lab.compute.workers, []);
    await manager().vm.execute(["runner-host", "resume"]);
    return /^drained: .*$/m.exec(said)![0];
  });

  await report.check(
    "terraform apply with another machine type of the manager: drained first, then it works on",
    async () => {
      const { id } = manager();
      const job = await work(10).running();
      await deployment.program({ runnerHostMachineType: "e2-medium" });
      const said = await deployment.apply();
      assert.match(said, /drained: after \d+ s, every job has ended; 1 worker VMs? deleted/);
      assert.equal(job.state, "success");
      assert.equal(manager().id, id);
      assert.equal(manager().machineTypeName, "e2-medium");
      await work(1).success();
      assert.match(await deployment.plan(), /No changes\./);
    },
  );
  await report.check(
    "Another version of GitLab Runner: a new VM, drained before, the same runner manager",
    async () => {
      const { id } = manager();
      const managers = [...lab.gitlab.managers.keys()];
      const job = await work(10).running();
      const waiting = work(1);
      await waiting.success();
      deployment.set({ gitlab_runner_version: await lab.laterRunnerVersion() });
      const said = await deployment.apply();
      assert.match(said, /drained: after \d+ s, every job has ended; 2 worker VMs deleted/);
      assert.equal(job.state, "success");
      assert.notEqual(manager().id, id);
      const asked = lab.gitlab.managers.get(managers[0])!;
      assert.ok(Date.now() - asked < 10_000);
      assert.deepEqual([...lab.gitlab.managers.keys()], managers);
      const installed = await manager().vm.shell("dpkg-query -W -f '${Version}' gitlab-runner");
      assert.equal(installed, `${await lab.laterRunnerVersion()}-1`);
      const replaced = lab.gitlab.longestPause(job.ended!);
      const inPlace = await pauseOfUpgradeInPlace(lab, await lab.runnerVersion());
      return `${replaced.toFixed(0)} s without a question for a job after the last one ended; an upgrade in place: ${inPlace.toFixed(0)} s`;
    },
  );
}

/** What the operating guide decides against: the package is upgraded on the VM that there is. Here it goes back, which is as long. */
async function pauseOfUpgradeInPlace(lab: Lab, version: string): Promise<number> {
  const start = Date.now();
  const packages = ["gitlab-runner", "gitlab-runner-helper-images"].map((name) => `${name}=${version}-1`);
  const options = "-qq -y --allow-change-held-packages --allow-downgrades";
  await lab.compute.find(RUNNER_HOST).vm.shell(`
    systemctl stop gitlab-runner
    DEBIAN_FRONTEND=noninteractive NO_DOCKER_PRUNE=1 apt-get install ${options} ${packages.join(" ")}
    systemctl start gitlab-runner`);
  await until("a question for a job", 60, () => lab.gitlab.questions.at(-1)! > Date.now() - 1000);
  return lab.gitlab.longestPause(start);
}
