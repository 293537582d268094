import assert from "node:assert/strict";
import { CACHE_HOST, Lab, RUNNER_HOST, TOKEN_SECRET } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";

/** The stack is deployed, and both hosts are well. */
export async function deploy(lab: Lab, report: Report): Promise<Deployment | undefined> {
  lab.secrets.create(TOKEN_SECRET);
  lab.secrets.addVersion(TOKEN_SECRET, lab.runnerToken);
  const deployment = await lab.deployment("main", { max_workers: 3, idle_time: 60, max_builds: 2, cache_disk_gb: 10 });
  const deployed = await report.check("cdktf deploy ends when both hosts are ready", async () => {
    await deployment.deployWithCdktf();
    const end = Date.now();
    return [CACHE_HOST, RUNNER_HOST]
      .map((name) => {
        const { published } = lab.compute.find(name);
        const ready = published.find(({ text }) => text === "gitlab-runner/status=ready");
        assert.ok(ready && ready.time < end, `${name}: ${published.at(-1)?.text}`);
        return `${name.replace(/.*-/, "")} ready after ${((ready.time - published[0].time) / 1000).toFixed(1)} s`;
      })
      .join(", ");
  });
  if (deployed) {
    await Promise.all([CACHE_HOST, RUNNER_HOST].map((name) => isWell(lab, report, name)));
  }
  return deployed ? deployment : undefined;
}

/** A host that came up without a complaint. */
export async function isWell(lab: Lab, report: Report, name: string): Promise<void> {
  const { vm } = lab.compute.find(name);
  await report.check(`${name}: cloud-init has no warning, no unit failed`, async () => {
    const status = await vm.execute(["cloud-init", "status", "--format", "json"]);
    assert.match(status, /"extended_status": "done"/);
    assert.match(status, /"recoverable_errors": {}/);
    assert.equal(await vm.execute(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]), "");
  });
}
