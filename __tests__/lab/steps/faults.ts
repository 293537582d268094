import assert from "node:assert/strict";
import { until } from "../commands";
import { ContainerImages } from "../container-images";
import { CACHE_HOST, Lab } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";
import type { Vm } from "../vm";

/** On the stack that runs: its cache host fails the jobs. */
export async function cacheHostFails(lab: Lab, report: Report): Promise<void> {
  const { vm } = lab.compute.find(CACHE_HOST);
  const compose = (...args: string[]) =>
    vm.execute(["docker", "compose", "-p", "cache", "-f", "/etc/gitlab-runner-gce/compose.yaml", ...args]);
  const before = lab.hubLine.received;
  await compose("stop");
  const build = lab.gitlab.queue("build");
  await report.check("Mirror down: the job goes on from Docker Hub itself", async () => {
    await build.success();
    const megabytes = (lab.hubLine.received - before) / 1e6;
    assert.ok(megabytes > ContainerImages.megabytes, `only ${megabytes} MB came over the slow line`);
    return `queue to end ${build.seconds.toFixed(1)} s`;
  });
  await report.check("Build cache down: the job passes and says so", () => {
    assert.match(build.trace, /Failed to extract cache/);
    assert.match(build.trace, /Failed to create cache/);
  });
  await compose("start");

  const bucket = "/export/runner";
  await report.check("Cache disk full: the job passes and says so", async () => {
    await vm.shell(`mkdir ${bucket}/project/1
      truncate -s 5M ${bucket}/project/1/old
      touch -d '20 days ago' ${bucket}/project/1/old
      fallocate -l $(($(df -B1 --output=avail ${bucket} | tail -n 1) - (1 << 20))) ${bucket}/project/1/huge
      touch -d '2 days ago' ${bucket}/project/1/huge`);
    const full = lab.gitlab.queue("build-from-scratch");
    await full.success();
    assert.match(full.trace, /Failed to create cache/);
    return `${(await percentUsed(vm, bucket)).toFixed(0)} % full`;
  });
  await report.check("The disk guard makes room, the oldest first", async () => {
    await vm.execute(["systemctl", "start", "cache-host-prune.service"]);
    const percent = await percentUsed(vm, bucket);
    assert.ok(percent <= 85, `${percent} % full`);
    await vm.execute(["test", "-e", `${bucket}/project/42/libraries`]);
    return `${percent} % full`;
  });
}

async function percentUsed(vm: Vm, path: string): Promise<number> {
  return parseInt((await vm.execute(["df", "--output=pcent", path])).split("\n")[1]);
}

/** Another deployment, which must not come up. */
export async function wrongKeyDeployment(lab: Lab, report: Report): Promise<void> {
  const deployment = await lab.deployment("wrong-key", { name: "wrong-key" }, { keyFingerprint: "0123".repeat(10) });
  await report.check("Wrong key fingerprint: the deployment fails, and says so", async () => {
    await deployment.synthesize();
    const failed = await deployment.apply().then(
      () => "",
      (error: Error) => error.message,
    );
    const sentence =
      /could not set itself up: packages: The repository key at \S+ has the fingerprint \w{40}, expected (0123){10}/;
    assert.match(failed.replace(/\s+/g, " "), sentence);
  });
  await destroyed(lab, report, "wrong-key", deployment);
}

/** Another deployment, which meets everything at once and still comes up. */
export async function unluckyDeployment(lab: Lab, report: Report): Promise<void> {
  const deployment = await lab.deployment("unlucky", { name: "unlucky", runner_token_secret: "unlucky-token" });
  lab.secrets.create("unlucky-token");
  lab.packageServer.outages.set("InRelease", 2);
  await deployment.synthesize();
  const applied = deployment.apply();
  applied.catch(() => {}); // looked at below
  const says = (name: string, text: RegExp) =>
    until(
      `${name} says ${String(text)}`,
      300,
      () => lab.compute.find(name).published.find((entry) => text.test(entry.text))?.text,
    );
  await Promise.all([
    report.check("The runner host is started again in the middle of its set-up, as is the cache host", async () => {
      await Promise.all([
        says("unlucky-manager", /step: docker-machine/).then(() => lab.compute.find("unlucky-manager").vm.reboot()),
        says("unlucky-cache", /step: services/).then(() => lab.compute.find("unlucky-cache").vm.reboot()),
      ]);
    }),
    report.check("apt's server answers 503 twice: it is asked again", async () => {
      await until("two outages", 120, () => lab.packageServer.outages.get("InRelease") === 0);
      await says("unlucky-manager", /step: docker-machine/);
      const refused = lab.packageServer.requests.filter(({ status }) => status === 503);
      assert.equal(refused.length, 2);
    }),
    report.check("The token's secret is empty: the runner host waits, and says so", async () => {
      const text = await says("unlucky-manager", /waiting: secret .*unlucky-token.*gcloud secrets versions add/);
      lab.gitlab.otherTokens.add("glrt-unlucky");
      lab.secrets.addVersion("unlucky-token", "glrt-unlucky");
      return text.replace(/^.*waiting: /, "");
    }),
    report.check("After all of that both hosts are ready", async () => {
      await applied;
      for (const name of ["unlucky-manager", "unlucky-cache"]) {
        assert.equal(lab.compute.find(name).guestAttributes.get("gitlab-runner/status"), "ready");
      }
    }),
  ]);
  await destroyed(lab, report, "unlucky", deployment);
  lab.secrets.delete("unlucky-token");
}

function destroyed(lab: Lab, report: Report, name: string, deployment: Deployment): Promise<boolean> {
  return report.check(`terraform destroy of ${name}: nothing left`, async () => {
    await deployment.destroy();
    assert.deepEqual(
      lab.compute.everything.filter((path) => path.includes(`/${name}`)),
      [],
    );
  });
}
