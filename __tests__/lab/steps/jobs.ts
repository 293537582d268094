import assert from "node:assert/strict";
import { until } from "../commands";
import { ContainerImages } from "../container-images";
import { type Job, succeed } from "../gitlab";
import { CACHE_HOST, Lab, RUNNER_HOST } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";
import { runnerConfig } from "./hosts";

const IMAGE = "maven";

const noWorkerIn = (lab: Lab, seconds: number) =>
  until("the end of all workers", seconds, () => lab.compute.workers.length === 0);

/** Seconds that the pull of the job's image took, by the times in its log. */
function pullSeconds(job: Job): number {
  const at = (text: RegExp) => {
    const line = job.trace.split("\n").find((line) => text.test(line));
    assert.ok(line, `no ${String(text)} in the log`);
    return Date.parse(line.slice(0, 27));
  };
  return (
    (at(new RegExp(`Using docker image sha256.* for ${IMAGE}`)) - at(new RegExp(`Pulling docker image ${IMAGE}`))) /
    1000
  );
}

/** The beginning: two jobs, for which there is no VM yet. */
export async function firstJobs(lab: Lab, report: Report): Promise<number | undefined> {
  await report.check("No job: no worker VM", () => assert.deepEqual(lab.compute.workers, []));
  const before = lab.hubLine.received;
  const build = lab.gitlab.queue("build");
  const metadata = lab.gitlab.queue("metadata");
  let firstPull: number | undefined;
  await report.check("Two jobs: two VMs are made through the Compute API, both jobs pass", async () => {
    await succeed(build, metadata);
    assert.notEqual(build.worker, metadata.worker);
    const manager = `serviceAccount:${lab.compute.find(RUNNER_HOST).serviceAccount!.email}`;
    for (const { worker } of [build, metadata]) {
      assert.ok(lab.compute.inserted.has(worker));
    }
    const inserts = lab.google.calls.filter(({ method, path }) => method === "POST" && path.endsWith("/instances"));
    assert.ok(inserts.some(({ caller }) => caller === manager));
    return `queue to end ${build.seconds.toFixed(1)} s and ${metadata.seconds.toFixed(1)} s`;
  });
  await report.check("Their output arrives", () => {
    assert.match(build.trace, /downloaded libraries/);
    assert.match(build.trace, /Created cache/);
  });
  await report.check("A job's container does not reach the metadata server", () => {
    assert.match(metadata.trace, /metadata server out of reach/);
  });
  await report.check("First pull of the job's image comes over the slow line", () => {
    firstPull = pullSeconds(build);
    const megabytes = (lab.hubLine.received - before) / 1e6;
    assert.ok(megabytes > ContainerImages.megabytes, `only ${megabytes} MB`);
    return `${firstPull.toFixed(1)} s, ${megabytes.toFixed(0)} MB on the line`;
  });
  await report.check("The mirror's store has the image", () =>
    until("the image in the store", 30, async () => {
      await lab.compute
        .find(CACHE_HOST)
        .vm.shell(`test -d /var/lib/registry/docker/registry/v2/repositories/library/${IMAGE}`);
      return true;
    }).then(() => {}),
  );
  await report.check("The build cache's object is under /export/runner", async () => {
    const { vm } = lab.compute.find(CACHE_HOST);
    const files = await vm.shell("find /export/runner/ -type f -size +2M -printf '%P\\n'");
    assert.match(files, /^project\/42\/libraries/m);
    return files.trim();
  });
  const again = lab.gitlab.queue("hello");
  await report.check("After MaxBuilds jobs a VM is not used again", async () => {
    await again.success();
    const full = [build, metadata].find(({ worker }) => worker === again.worker);
    assert.ok(full, "the idle VM was not used");
    await until("the end of that VM", 30, () => lab.compute.workers.every(({ name }) => name !== again.worker));
    return `MaxBuilds 2, idle VM used after ${again.seconds.toFixed(1)} s`;
  });
  return firstPull;
}

/** The end of the beginning's VMs. */
export async function idleWorkersGo(lab: Lab, report: Report): Promise<void> {
  await report.check("After IdleTime the worker VMs are deleted, disks too", async () => {
    const idle = lab.compute.workers.map(({ name }) => name);
    const lastJob = Math.max(...lab.gitlab.jobs.flatMap(({ worker, ended }) => (idle.includes(worker) ? ended! : [])));
    await noWorkerIn(lab, 120);
    assert.deepEqual(
      lab.compute.everything.filter((path) => path.includes("/runner-")),
      [],
    );
    return `${((Date.now() - lastJob) / 1000).toFixed(0)} s after the last job there, IdleTime 60`;
  });
}

/** Five jobs at once, each on a VM of its own. */
export async function manyJobs(lab: Lab, report: Report, deployment: Deployment, firstPull = 0): Promise<void> {
  await report.check("A changed setting is live without a new VM", async () => {
    const { id } = lab.compute.find(RUNNER_HOST);
    deployment.set({ max_builds: 1, privileged: true });
    await deployment.apply();
    const start = Date.now();
    await until("the new MaxBuilds", 30, async () => (await runnerConfig(lab)).machine.MaxBuilds === 1);
    assert.equal(lab.compute.find(RUNNER_HOST).id, id);
    return `${((Date.now() - start) / 1000).toFixed(1)} s after the apply`;
  });
  await noWorkerIn(lab, 60);
  lab.gitlab.mostAtOnce = 0;
  lab.compute.mostWorkers = 0;
  const before = lab.hubLine.received;
  const build = lab.gitlab.queue("build");
  const work = [1, 2].map(() => lab.gitlab.queue("work", { SECONDS_OF_WORK: "2" }));
  await report.check("The second build, on a new VM, finds its cache and downloads nothing", async () => {
    await succeed(build, ...work);
    assert.match(build.trace, /Successfully extracted cache/);
    assert.match(build.trace, /nothing downloaded/);
    return `queue to end ${build.seconds.toFixed(1)} s`;
  });
  await report.check("Its image comes from the mirror, not over the slow line", () => {
    const megabytes = (lab.hubLine.received - before) / 1e6;
    const seconds = pullSeconds(build);
    // The small layer that all these images share may come again: the first two jobs ask for it at once, and of a layer
    // that is on its way for one image the registry keeps nothing for another (inflight in its proxyblobstore.go).
    assert.ok(megabytes < ContainerImages.megabytes / 10, `${megabytes} MB came over the slow line`);
    assert.ok(seconds < firstPull, `${seconds} s, the first took ${firstPull} s`);
    return `${seconds.toFixed(1)} s instead of ${firstPull.toFixed(1)} s: ${(firstPull / seconds).toFixed(1)} times as fast`;
  });
  const database = lab.gitlab.queue("database");
  const image = lab.gitlab.queue("image");
  await report.check("A job with a service passes", async () => void (await database.success()));
  await report.check("A privileged job builds an image; docker-in-docker pulls from the mirror, too", async () => {
    await image.end();
    const passed = await (image.secondAttempt ?? image).success();
    assert.match(
      passed.trace,
      new RegExp(`Registry Mirrors:\\s.*http://${lab.compute.find(CACHE_HOST).address}:6000`, "s"),
    );
    assert.match(passed.trace, /Hello from an image that a job built/);
    const { vm } = lab.compute.find(CACHE_HOST);
    const log = await vm.shell("docker logs cache-registry-mirror-1 2>&1 | grep -a /v2/library/maven/blobs/");
    assert.ok(log.includes(lab.compute.inserted.get(passed.worker)!), "the mirror's log does not have that worker");
    return `queue to end ${passed.seconds.toFixed(1)} s${passed === image ? "" : ", second attempt"}`;
  });
  await report.check("Never more jobs than max_workers, never more VMs than 2 × max_workers - 1", async () => {
    await noWorkerIn(lab, 60);
    const workers = lab.gitlab.jobs.slice(build.id - 1).map(({ worker }) => worker);
    assert.equal(new Set(workers).size, workers.length, "with MaxBuilds 1 each job has a VM of its own");
    assert.ok(lab.gitlab.mostAtOnce <= 3, `${lab.gitlab.mostAtOnce} jobs at once`);
    assert.ok(lab.compute.mostWorkers <= 5, `${lab.compute.mostWorkers} VMs at once`);
    return `at most ${lab.gitlab.mostAtOnce} jobs and ${lab.compute.mostWorkers} VMs at once, max_workers 3`;
  });
}
