import { join } from "node:path";
import { describeIf, temporaryFolder } from "./programs";
import { SUBJECTS, synthesize, Values, valuesFor } from "./subjects";
import { parse, providersAvailable, Terraform } from "./terraform";

/** What the stack has for the Ops Agent and with it. */
const MONITORING = /^google_(monitoring|logging)_|_Write(Logs|Metrics)_/;

describeIf(providersAvailable())("the stack's variable monitoring", () => {
  const folder = temporaryFolder();
  const terraform = new Terraform(join(folder, "terraform"));
  let needed: Values;

  const planned = async (values: Values): Promise<string[]> =>
    (await terraform.changes({ ...needed, ...values })).map(({ address }) => address).sort();

  beforeAll(async () => {
    const configuration = parse(await synthesize("main.ts", join(folder, "cdktf.out")));
    needed = valuesFor(SUBJECTS[0], configuration);
    terraform.write(configuration);
    await terraform.init();
  });

  test("makes alert policies, a dashboard and the hosts' rights, and nothing else", async () => {
    const [off, on] = [await planned({ monitoring: false }), await planned({ monitoring: true })];
    expect(off.filter((address) => MONITORING.test(address))).toEqual([]);
    expect(on.filter((address) => !MONITORING.test(address))).toEqual(off);
    expect(
      on.filter((address) => MONITORING.test(address)).map((address) => address.replace(/_[0-9A-F]{8}\b/, "")),
    ).toEqual([
      "google_monitoring_alert_policy.Monitoring_DiskFilling[0]",
      "google_monitoring_alert_policy.Monitoring_NoContact[0]",
      "google_monitoring_alert_policy.Monitoring_NoMachines[0]",
      "google_monitoring_alert_policy.Monitoring_NotReady[0]",
      "google_monitoring_dashboard.Monitoring_Dashboard[0]",
      "google_project_iam_member.CacheHost_WriteLogs[0]",
      "google_project_iam_member.CacheHost_WriteMetrics[0]",
      "google_project_iam_member.RunnerHost_WriteLogs[0]",
      "google_project_iam_member.RunnerHost_WriteMetrics[0]",
    ]);
  });

  test("is off by default", async () => {
    expect(await planned({})).toEqual(await planned({ monitoring: false }));
  });
});
