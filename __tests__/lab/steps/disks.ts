import assert from "node:assert/strict";
import { until } from "../commands";
import { CACHE_HOST, Lab, RUNNER_HOST } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";

const BLOBS = "/srv/cache/registry/docker/registry/v2/blobs";

/** Disks do not fill, with jobs on them. The cache host's has 10 GB, the worker's 1.5. */
export async function disks(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const { vm: cache } = lab.compute.find(CACHE_HOST);
  const percent = async (path: string) =>
    parseInt((await cache.execute(["df", "--output=pcent", path])).split("\n")[1]);
  deployment.set({ max_builds: 10, idle_time: 300, privileged: false });
  await deployment.apply();
  await lab.compute.find(RUNNER_HOST).vm.shell("runner-host drain && runner-host resume", { timeoutSeconds: 120 });
  lab.compute.workerDockerMegabytes = 1500;
  await lab.gitlab.queue("build").success();

  await report.check(
    "Over the high-water mark the oldest go, caches and images alike, while jobs pull and store",
    async () => {
      // Two caches older than all images, two younger ones; all of that, and a file that nobody may delete, over the mark.
      await cache.shell(`
      cd /export/runner && mkdir -p project/disks && cd project/disks
      for days in 9 8 2 1; do fallocate -l 300M $days && touch -d "$days days ago" $days; done
      find ${BLOBS} -name data -exec touch -d '5 days ago' {} +
      size=$(df -B1M --output=size /srv/cache | tail -n 1) used=$(df -B1M --output=used /srv/cache | tail -n 1)
      fallocate -l $((size * 85 / 100 + 560 - used))M /srv/cache/ballast`);
      const before = await percent("/srv/cache");
      assert.ok(before > 85, `${before} %`);
      const build = lab.gitlab.queue("build");
      await until("below the mark", 150, async () => (await percent("/srv/cache")) <= 85);
      const left = await cache.shell(
        `cd /export/runner/project/disks && ls; find ${BLOBS} -name data -mtime +3 | wc -l`,
      );
      const [files, old] = [left.trim().split("\n").slice(0, -1), left.trim().split("\n").at(-1)];
      assert.ok(!files.includes("9") && !files.includes("8"), files.join());
      assert.ok(files.includes("1"), "the youngest cache is gone");
      await build.success();
      assert.match(build.trace, /Created cache|Archive is up to date/);
      return `${before} % full, then ${await percent("/srv/cache")} %; left of caches 9, 8, 2 and 1 days old: ${files.join(", ")}, of old layers: ${old}`;
    },
  );
  await report.check(
    "With nothing but images to delete, images go; who pulls one gets it, and the mirror has it again",
    async () => {
      await cache.shell(`
      rm -rf /export/runner/project/disks /srv/cache/ballast
      find ${BLOBS} -name data -exec touch -d '5 days ago' {} +
      size=$(df -B1M --output=size /srv/cache | tail -n 1) used=$(df -B1M --output=used /srv/cache | tail -n 1)
      fallocate -l $((size * 88 / 100 - used))M /srv/cache/ballast
      systemctl start cache-host-prune.service`);
      assert.equal((await cache.shell(`find ${BLOBS} -name data | wc -l`)).trim(), "0");
      await cache.execute(["rm", "/srv/cache/ballast"]);
      await lab.compute.find(RUNNER_HOST).vm.shell("runner-host drain && runner-host resume", { timeoutSeconds: 120 });
      await lab.gitlab.queue("build").success();
      const megabytes = await cache.shell(`du -sm ${BLOBS} | cut -f 1`);
      assert.ok(Number(megabytes) > 60, `${megabytes} MB`);
    },
  );
  await report.check("A worker over its mark deletes images, and the next job passes", async () => {
    const { worker } = await lab.gitlab.queue("work", { SECONDS_OF_WORK: "1" }).success();
    const { vm } = lab.compute.find(worker);
    const images = async () => (await vm.execute(["docker", "images", "-q"])).split("\n").filter(Boolean).length;
    const before = await images();
    assert.ok(before > 1);
    await vm.shell(
      "fallocate -l $(($(df -B1M --output=avail /var/lib/docker | tail -n 1) - 200))M /var/lib/docker/ballast",
    );
    const start = Date.now();
    await until("no image", 120, async () => (await images()) === 0);
    const seconds = ((Date.now() - start) / 1000).toFixed(0);
    await vm.execute(["rm", "/var/lib/docker/ballast"]);
    const next = await lab.gitlab.queue("build").success();
    assert.equal(next.worker, worker);
    return `${before} images gone after ${seconds} s`;
  });
  lab.compute.workerDockerMegabytes = undefined;
}
