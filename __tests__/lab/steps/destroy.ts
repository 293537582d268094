import assert from "node:assert/strict";
import { Lab, TOKEN_SECRET } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";

/** Terraform agrees with what there is, and removes all of it. */
export async function noDrift(report: Report, deployment: Deployment): Promise<void> {
  await report.check("terraform plan: no changes", async () => {
    assert.match(await deployment.plan(), /No changes\./);
  });
}

export async function destroy(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const job = await lab.gitlab.queue("work", { SECONDS_OF_WORK: "12" }).running();
  await report.check("terraform destroy: the job that runs ends well, then nothing is left", async () => {
    const said = await deployment.destroy();
    assert.match(said, /drained: after \d+ s, every job has ended; \d worker VMs deleted/);
    assert.equal(job.state, "success");
    assert.deepEqual(lab.compute.everything, []);
    assert.deepEqual([...lab.iam.serviceAccounts.keys()], []);
    assert.deepEqual(
      [...lab.iam.roles.values()].filter(({ deleted }) => !deleted),
      [],
    );
    assert.deepEqual(lab.secrets.ids, [TOKEN_SECRET], "only the operator's own secret stays");
  });
}
