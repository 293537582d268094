import assert from "node:assert/strict";
import { until } from "../commands";
import type { Job } from "../gitlab";
import type { Instance } from "../google/instance";
import { CACHE_HOST, Lab, RUNNER_HOST } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";

const SECOND_SECRET = "second-runner-token";
const SECOND_TOKEN = "glrt-second-runner-000";

/** What an operator tunes reaches running hosts, and a mistake in it does no harm. */
export async function changes(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const hosts = () => [RUNNER_HOST, CACHE_HOST].map((name) => lab.compute.find(name));
  const config = () => hosts()[0].vm.execute(["cat", "/etc/gitlab-runner/config.toml"]);
  const before = hosts().map(({ id }) => id);
  const sameHosts = () =>
    assert.deepEqual(
      hosts().map(({ id }) => id),
      before,
      "a host was made anew",
    );
  const job = (seconds: number): Job => lab.gitlab.queue("work", { SECONDS_OF_WORK: `${seconds}` });

  const during = await job(25).running();
  await report.check("Concurrency, idle policy and worker's machine type change below a running job", async () => {
    deployment.set({ concurrent: 7, idle_time: 90, worker_machine_type: "e2-standard-4" });
    await deployment.apply();
    await until("the new configuration", 20, async () => {
      const text = await config();
      return (
        /^concurrent = 7$/m.test(text) && /IdleTime = 90/.test(text) && text.includes("machine-type=e2-standard-4")
      );
    });
    sameHosts();
    return secondsToReload(hosts()[0]);
  });
  await report.check("The mirror's TTL changes in place", async () => {
    deployment.set({ registry_ttl: "72h" });
    await deployment.apply();
    const cache = hosts()[1];
    await until("the new TTL", 20, async () => {
      const environment = await cache.vm.shell("docker exec cache-registry-mirror-1 env");
      return environment.includes("REGISTRY_PROXY_TTL=72h");
    });
    sameHosts();
    return within10(cache.metadataChanged, Date.now());
  });

  await report.check(
    "A second runner whose secret is empty does not replace the configuration that works",
    async () => {
      lab.secrets.create(SECOND_SECRET);
      await deployment.program({ secondRunner: SECOND_SECRET });
      await deployment.apply();
      const said = await says(hosts()[0], /secret .*second-runner-token.*not found/);
      assert.ok(!(await config()).includes("second-runner"));
      return said;
    },
  );
  await report.check("With the secret there it is live by itself, and asks for jobs", async () => {
    lab.gitlab.otherTokens.add(SECOND_TOKEN);
    lab.secrets.addVersion(SECOND_SECRET, SECOND_TOKEN);
    const start = Date.now();
    await until("the second runner asks", 70, () => lab.gitlab.asked.has(SECOND_TOKEN));
    sameHosts();
    return `${((Date.now() - start) / 1000).toFixed(0)} s after the secret`;
  });
  await report.check("The job that ran meanwhile ends well", async () => {
    await during.success();
  });

  await report.check("A runner is removed in place", async () => {
    await deployment.program({ secondRunner: undefined });
    await deployment.apply();
    await until("it is gone", 20, async () => !(await config()).includes(SECOND_TOKEN));
    lab.secrets.delete(SECOND_SECRET);
    sameHosts();
  });

  await report.check("A configuration that gitlab-runner does not know is not used, and the host says so", async () => {
    const good = await config();
    await deployment.program({ overrides: { no_such_key: 1 } });
    await deployment.apply();
    const said = await says(hosts()[0], /no_such_key/);
    assert.equal(await config(), good);
    return said.slice(0, 90);
  });
  await report.check("A job passes all the same", async () => {
    await job(1).success();
  });
  await report.check("It recovers by itself when the mistake is mended", async () => {
    await deployment.program({ overrides: {} });
    await deployment.apply();
    await until("ok", 20, () => hosts()[0].guestAttributes.get("gitlab-runner/config") === "ok");
    return within10(hosts()[0].metadataChanged, Date.now());
  });
}

function says(host: Instance, text: RegExp): Promise<string> {
  return until(`${host.name} says ${String(text)}`, 70, () => {
    const config = host.guestAttributes.get("gitlab-runner/config") ?? "";
    return config.startsWith("failed: ") && text.test(config) && config;
  });
}

/** From the write of the metadata to gitlab-runner's own line that it has them. */
async function secondsToReload({ vm, metadataChanged }: Instance): Promise<string> {
  const loaded = await until("gitlab-runner says so", 20, async () => {
    const since = `@${Math.floor(metadataChanged / 1000)}`;
    const journal = await vm.execute(["journalctl", "-u", "gitlab-runner", "--since", since, "-o", "json"]);
    const lines = journal
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { [field: string]: string });
    return lines.find(({ MESSAGE }) => /Configuration loaded/.test(MESSAGE));
  });
  return within10(metadataChanged, Number(loaded["__REALTIME_TIMESTAMP"]) / 1000);
}

function within10(from: number, to: number): string {
  const seconds = (to - from) / 1000;
  assert.ok(seconds >= 0 && seconds <= 10, `${seconds} s`);
  return `live ${seconds.toFixed(1)} s after the metadata`;
}
