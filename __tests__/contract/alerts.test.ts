import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { App, TerraformStack, Testing } from "cdktf";
import {
  CacheHost,
  DockerMachineWorkers,
  RunnerHost,
  RunnerMonitoring,
  RunnerNetwork,
  RunnerRegistration,
} from "../../constructs";
import { describeIf, programAvailable, run, temporaryFolder } from "./programs";
import { parse } from "./terraform";

interface Condition {
  readonly query: string;
  readonly duration: string;
}

/** Prometheus' rules of the alert policies, by their construct ids. */
function rules(outdir: string): { alert: string; expr: string; for: string }[] {
  const stack = new TerraformStack(new App({ outdir }), "stack");
  const place = { project: "my-project", zone: "us-central1-a", opsAgent: true };
  const network = new RunnerNetwork(stack, "Network", { project: "my-project", region: "us-central1" });
  const host = new RunnerHost(stack, "Host", { ...place, network, name: "manager" });
  const cacheHost = new CacheHost(stack, "Cache", { ...place, network, name: "cache" });
  const workers = new DockerMachineWorkers(stack, "Workers", { ...place, network });
  const token = { project: "my-project", secretId: "token" };
  new RunnerRegistration(stack, "Runner", { host, workers, token, gitlabUrl: "https://gitlab.com" });
  new RunnerMonitoring(stack, "Monitoring", { runnerHost: host, cacheHost });
  const policies = parse(Testing.synth(stack)).resource["google_monitoring_alert_policy"];
  return Object.entries(policies).map(([id, policy]) => {
    const [condition] = policy["conditions"] as { condition_prometheus_query_language: Condition }[];
    const { query, duration } = condition.condition_prometheus_query_language;
    return {
      alert: id.replace(/^Monitoring_|_[0-9A-F]+$/g, ""),
      // Google's number of the VM is known to Terraform only.
      expr: query.replace(/\$\{google_compute_instance\.\w+\.instance_id\}/, "123"),
      for: duration,
    };
  });
}

/** Values of a series, one a minute, in promtool's notation. */
type Series = { readonly [series: string]: string };

const of = (name: string, labels = "", host = "manager", project = "my-project") =>
  `${name}{project_id="${project}", instance_name="${host}"${labels && `, ${labels}`}}`;
const requests = (runner: string, status: number) =>
  of("gitlab_runner_api_request_statuses_total", `runner="${runner}", endpoint="request_job", status="${status}"`);
const jobs = (runner: string) => of("gitlab_runner_jobs", `runner="${runner}", state="running", stage="step_script"`);
const actions = (action: string) =>
  of("gitlab_runner_autoscaling_actions_total", `action="${action}", executor="docker+machine"`);
const disk = (device: string, state = "used", instance = "123") =>
  `agent_googleapis_com:disk_percent_used{monitored_resource="gce_instance", instance_id="${instance}", device="${device}", state="${state}"}`;

const UP: Series = {
  [of("gitlab_runner_concurrent")]: "10x120",
  [of("gitlab_runner_limit", 'runner="a"')]: "10x120",
};
const IDLE: Series = { ...UP, [requests("a", 204)]: "0+20x120" };

/** What is seen of a deployment, and at which minutes which alerts fire. */
const SCENARIOS: [what: string, series: Series, fires: { readonly [minute: number]: string[] }][] = [
  ["a runner that waits for jobs", IDLE, { 1: [], 20: [], 60: [] }],
  [
    "a runner whose only job writes nothing, for an hour",
    { ...UP, [requests("a", 204)]: "0+20x10 200x60", [jobs("a")]: "_x10 1x60" },
    { 60: [] },
  ],
  ["a new host that says nothing", {}, { 9: [], 11: ["NotReady"] }],
  [
    "a new host that is ready after eight minutes",
    { [of("gitlab_runner_concurrent")]: "_x8 10x60" },
    { 11: [], 20: [] },
  ],
  [
    "a host that is gone at half past, while another one runs",
    {
      [of("gitlab_runner_concurrent")]: "10x30",
      [of("gitlab_runner_limit", 'runner="a"')]: "10x30",
      [of("gitlab_runner_concurrent", "", "other")]: "10x120",
      [of("gitlab_runner_concurrent", "", "manager", "other-project")]: "10x120",
      [requests("a", 204)]: "0+20x30",
    },
    { 30: [], 44: [], 47: ["NotReady"] },
  ],
  ["a runner that never reaches GitLab", UP, { 4: [], 6: ["NoContact"] }],
  ["a runner that GitLab refuses", { ...UP, [requests("a", 403)]: "0+20x120" }, { 6: ["NoContact"] }],
  [
    "GitLab away for a while, at half past",
    { ...UP, [requests("a", 204)]: "0+20x30 600x30 600+20x30" },
    { 38: [], 42: ["NoContact"], 59: ["NoContact"], 65: [] },
  ],
  [
    "one of two runners that has lost its contact",
    {
      ...IDLE,
      [of("gitlab_runner_limit", 'runner="b"')]: "10x120",
      [requests("b", 204)]: "0+20x30 600x60",
    },
    { 30: [], 45: ["NoContact"] },
  ],
  ["a gitlab-runner that has just started", { ...UP, [requests("a", 204)]: "_x2 5+20x60" }, { 4: [], 6: [], 10: [] }],
  [
    "VMs that cannot be made",
    { ...IDLE, [actions("created")]: "7x120", [actions("creation-failed")]: "_x30 1+1x60" },
    { 30: [], 33: ["NoMachines"], 60: ["NoMachines"] },
  ],
  [
    "VMs of which none was ever made",
    { ...IDLE, [actions("creation-failed")]: "1+1x10 11x60" },
    { 5: ["NoMachines"], 30: [] },
  ],
  [
    "VMs of which one in three cannot be made",
    { ...IDLE, [actions("created")]: "0+2x120", [actions("creation-failed")]: "0+1x120" },
    { 30: [], 60: [] },
  ],
  [
    "a cache disk that fills",
    {
      ...IDLE,
      [disk("/dev/sdb")]: "80x30 92x30 88x30",
      [disk("/dev/sdb", "free")]: "95x120",
      [disk("/dev/loop0")]: "100x120",
      [disk("/dev/sdb", "used", "124")]: "99x120",
    },
    { 30: [], 40: [], 42: ["DiskFilling"], 70: [] },
  ],
];

// Not one of the programs that everybody needs here: Debian has it in the package prometheus.
describeIf(programAvailable("promtool"))("the alerts, on", () => {
  const folder = temporaryFolder();

  beforeAll(() => {
    const document = { groups: [{ name: "alerts", interval: "1m", rules: rules(join(folder, "cdktf.out")) }] };
    writeFileSync(join(folder, "rules.yaml"), JSON.stringify(document));
  });

  test.each(SCENARIOS)("%s", async (_, series, fires) => {
    const file = join(folder, "test.yaml");
    const test = {
      interval: "1m",
      input_series: Object.entries(series).map(([series, values]) => ({ series, values })),
      promql_expr_test: Object.entries(fires).map(([minute, alerts]) => ({
        expr: 'count by (alertname) (ALERTS{alertstate="firing"})',
        eval_time: `${minute}m`,
        exp_samples: alerts.map((alert) => ({ labels: `{alertname="${alert}"}`, value: 1 })),
      })),
    };
    writeFileSync(file, JSON.stringify({ rule_files: ["rules.yaml"], evaluation_interval: "1m", tests: [test] }));
    const { status, stdout, stderr } = await run(["promtool", "test", "rules", file], { cwd: folder });
    expect({ status, output: `${stdout}${stderr}` }).toEqual({
      status: 0,
      output: expect.stringContaining("SUCCESS") as string,
    });
  });
});
