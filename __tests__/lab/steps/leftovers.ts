import assert from "node:assert/strict";
import { until } from "../commands";
import { Lab, RUNNER_HOST } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";

/** Seconds that a worker waits for its manager: the shortest that the stack takes. */
const MANAGER_TIMEOUT = 60;

/** Whatever happens to the manager, no worker VM is left. */
export async function leftovers(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const manager = () => lab.compute.find(RUNNER_HOST).vm;
  const work = (seconds: number) => lab.gitlab.queue("work", { SECONDS_OF_WORK: `${seconds}` });
  const names = () => lab.compute.workers.map(({ name }) => name);
  const known = async () =>
    (await manager().shell("ls /var/lib/docker-machine/machines")).split("\n").filter((name) => name !== "");
  // A VM and its folder do not go in the same moment.
  const nothingUnknown = () =>
    until("docker-machine knows all VMs, and no other", 60, async () => {
      assert.deepEqual(names().sort(), (await known()).sort());
      return true;
    });
  await deployment.program({ managerTimeout: MANAGER_TIMEOUT });
  deployment.set({ max_builds: 10, idle_time: 300, privileged: false });
  await deployment.apply();
  await reapSoon(lab);

  await report.check("docker-machine killed while it makes a VM: the job passes, and that VM goes", async () => {
    const job = work(1);
    const half = await killWhileCreating(lab, "pkill -KILL -f 'docker-machine.* create '");
    await job.success();
    await until("the end of the half-made VM", 90, () => !names().includes(half));
    await nothingUnknown();
    return half;
  });
  await report.check("gitlab-runner killed with it: the VM that is half made goes too", async () => {
    await removeAll(lab);
    const job = work(1);
    const half = await killWhileCreating(
      lab,
      "systemctl kill --signal=KILL gitlab-runner; rm -rf /var/lib/docker-machine/machines/runner-*; systemctl restart gitlab-runner",
    );
    lab.gitlab.lose(job);
    await until("the end of the half-made VM", 90, () => !names().includes(half));
    await work(1).success();
    await nothingUnknown();
  });

  await report.check("A new manager without the old one's disk deletes the VMs that it does not know", async () => {
    const job = await work(120).running();
    const old = names();
    assert.ok(old.length > 0);
    await lab.compute.lose(RUNNER_HOST);
    await deployment.apply();
    await reapSoon(lab);
    await until("the end of the old workers", 90, () => !names().some((name) => old.includes(name)));
    lab.gitlab.lose(job);
    await work(1).success();
    return `${old.length} VMs`;
  });

  await report.check("Workers whose manager is gone power themselves off, but not below a job", async () => {
    const seconds = MANAGER_TIMEOUT + 90;
    const busy = await work(seconds).running();
    const started = Date.now();
    const idle = await work(1).success();
    assert.notEqual(idle.worker, busy.worker);
    const gone = Date.now();
    await lab.compute.lose(RUNNER_HOST);
    const off = (name: string, seconds: number) =>
      until(`${name} is off`, seconds, () => lab.compute.find(name).status === "TERMINATED" && Date.now());
    const idleOff = await off(idle.worker, 180);
    assert.ok(idleOff - gone >= MANAGER_TIMEOUT * 1000 * 0.9, "too early");
    assert.equal(lab.compute.find(busy.worker).status, "RUNNING");
    const busyOff = await off(busy.worker, 180);
    assert.ok(busyOff - started >= (seconds - 5) * 1000, "below its job");
    lab.gitlab.lose(busy);
    const after = (since: number, time: number) => ((time - since) / 1000).toFixed(0);
    return `manager-timeout ${MANAGER_TIMEOUT}: idle one off after ${after(gone, idleOff)} s; ${seconds} s job: off ${after(started, busyOff)} s after its start`;
  });
  await report.check("The next manager deletes them", async () => {
    const old = names();
    await deployment.apply();
    await reapSoon(lab);
    await until("the end of the old workers", 90, () => !names().some((name) => old.includes(name)));
    await work(1).success();
    assert.match(await deployment.plan(), /No changes\./);
  });
}

/** The reaper's grace period is ten minutes, and it looks every minute: not here. */
export async function reapSoon(lab: Lab): Promise<void> {
  await lab.compute.find(RUNNER_HOST).vm.shell(`
    mkdir -p /run/systemd/system/runner-host-workers.{service,timer}.d
    printf '[Service]\\nEnvironment=REAPER_GRACE_SECONDS=20\\n' >/run/systemd/system/runner-host-workers.service.d/lab.conf
    printf '[Timer]\\nOnUnitActiveSec=5s\\n' >/run/systemd/system/runner-host-workers.timer.d/lab.conf
    systemctl daemon-reload
    systemctl restart runner-host-workers.timer`);
}

/** Runs the script on the manager while docker-machine makes a VM there. Name of that VM. */
async function killWhileCreating(lab: Lab, script: string): Promise<string> {
  const before = lab.compute.workers.map(({ name }) => name);
  const half = await until(
    "a VM that is being made",
    60,
    () => lab.compute.workers.find(({ name }) => !before.includes(name))?.name,
    0.05,
  );
  await lab.compute.find(RUNNER_HOST).vm.shell(script);
  return half;
}

/** So that the next job needs a VM that is made for it. */
async function removeAll(lab: Lab): Promise<void> {
  await lab.compute.find(RUNNER_HOST).vm.shell("runner-host drain && runner-host resume", { timeoutSeconds: 120 });
}
