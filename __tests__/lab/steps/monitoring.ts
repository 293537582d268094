import assert from "node:assert/strict";
import { REGISTRY_METRICS, RUNNER_METRICS, type PrometheusMetric } from "../../../constructs/prometheus-metrics";
import { until } from "../commands";
import type { Instance } from "../google/instance";
import { CACHE_HOST, Lab, RUNNER_HOST } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";

/** Metrics, and who sees them. The Ops Agent, and what Google makes of its metrics, are not to be had here. */
export async function monitoring(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const hosts = [
    { host: lab.compute.find(RUNNER_HOST), port: 9252, metrics: Object.values(RUNNER_METRICS) },
    { host: lab.compute.find(CACHE_HOST), port: 9253, metrics: Object.values(REGISTRY_METRICS) },
  ];
  const [runner, cache] = hosts;
  const read = ({ vm }: Instance, address: string, port: number) =>
    vm.shell(`curl -sf --max-time 3 http://${address}:${port}/metrics`);
  await lab.gitlab.queue("build").success();
  const job = await lab.gitlab.queue("work", { SECONDS_OF_WORK: "10" }).running();

  await report.check("All metrics that alerts and dashboard read are there, for the host itself", async () => {
    for (const { host, port, metrics } of hosts) {
      const text = await read(host, "127.0.0.1", port);
      const missing = metrics.filter((metric) => !serves(text, metric)).map(({ name }) => name);
      assert.deepEqual(missing, []);
    }
    await job.success();
    return `${hosts.flatMap(({ metrics }) => metrics).length} metrics`;
  });
  await report.check("Nobody else sees them", async () => {
    for (const [client, { host, port }] of [
      [cache.host, runner],
      [runner.host, cache],
    ] as const) {
      await assert.rejects(read(client, host.address, port));
      await assert.rejects(read(host, host.address, port), "it listens at the internal address");
    }
  });
  await report.check("metricsClientRanges lets one client in, at the internal address, and no other", async () => {
    await deployment.program({ metricsClientRanges: [`${cache.host.address}/32`] });
    await deployment.apply();
    await runner.host.vm.execute(["systemctl", "restart", "gitlab-runner"]);
    await until("the cache host is let in", 30, () =>
      read(cache.host, runner.host.address, runner.port).then(() => true),
    );
    await until("the mirror serves them there", 30, () =>
      read(cache.host, cache.host.address, cache.port).then(() => true),
    );
    await assert.rejects(read(runner.host, cache.host.address, cache.port));
    await deployment.program({ metricsClientRanges: undefined });
    await deployment.apply();
  });
}

/** Whether there is a sample of that name, or of its histogram, with the labels. */
function serves(text: string, { name, labels }: PrometheusMetric): boolean {
  const samples = text.split("\n").filter((line) => new RegExp(`^${name}(_bucket)?[ {]`).test(line));
  return (
    samples.length > 0 && Object.keys(labels).every((label) => samples.some((line) => line.includes(`${label}="`)))
  );
}
