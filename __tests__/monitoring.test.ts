import { TerraformStack, Token } from "cdktf";
import { CacheHost, CacheHostProps } from "../constructs/cache-host";
import { DockerMachineWorkers } from "../constructs/docker-machine-workers";
import { RunnerMonitoring, RunnerMonitoringProps } from "../constructs/monitoring";
import { PrometheusMetric, REGISTRY_METRICS, RUNNER_METRICS } from "../constructs/prometheus-metrics";
import { RunnerHost, RunnerHostProps } from "../constructs/runner-host";
import { RunnerRegistration } from "../constructs/runner-registration";
import { evaluated, place, Resource, Synthesized, synthesized, variable } from "./synthesized";

interface Given {
  readonly host?: Partial<RunnerHostProps>;
  /** `null` is a deployment without one. */
  readonly cacheHost?: Partial<CacheHostProps> | null;
  readonly monitoring?: Partial<RunnerMonitoringProps>;
}

function create(stack: TerraformStack, { host = {}, cacheHost = {}, monitoring }: Given): void {
  const runnerHost = new RunnerHost(stack, "Host", { ...place, opsAgent: true, ...host });
  new RunnerRegistration(stack, "Runner", {
    host: runnerHost,
    workers: new DockerMachineWorkers(stack, "Workers", place),
    gitlabUrl: "https://gitlab.example",
    token: { project: "my-project", secretId: "token" },
  });
  new RunnerMonitoring(stack, "Monitoring", {
    runnerHost,
    cacheHost:
      cacheHost === null ? undefined : new CacheHost(stack, "Cache", { ...place, opsAgent: true, ...cacheHost }),
    ...monitoring,
  });
}
const monitored = (given: Given = {}) => synthesized((stack) => create(stack, given));

interface Policy extends Resource {
  readonly display_name: string;
  readonly documentation: { readonly content: string; readonly mime_type: string };
  readonly conditions: { readonly condition_prometheus_query_language: { readonly query: string } }[];
}

const policies = (stack: Synthesized) => stack.all("google_monitoring_alert_policy") as Policy[];
const policy = (stack: Synthesized, id: string) =>
  stack.one("google_monitoring_alert_policy", `Monitoring_${id}`) as Policy;
const query = ({ conditions: [condition] }: Policy) => condition.condition_prometheus_query_language.query;

interface Dashboard {
  readonly displayName: string;
  readonly gridLayout: {
    readonly widgets: {
      readonly title: string;
      readonly xyChart: { readonly dataSets: { readonly timeSeriesQuery: { readonly prometheusQuery: string } }[] };
    }[];
  };
}

const dashboard = (stack: Synthesized) =>
  JSON.parse(evaluated(String(stack.one("google_monitoring_dashboard")["dashboard_json"]))) as Dashboard;
const charts = (stack: Synthesized) => dashboard(stack).gridLayout.widgets.map(({ title }) => title);

describe("alerts", () => {
  test("are for a host that is not ready, no contact to GitLab, VMs that cannot be made, and disks that fill", () => {
    expect(
      policies(monitored())
        .map(({ display_name: title, severity }) => [title, severity])
        .sort(),
    ).toEqual([
      ["stack-host: cache disk filling", "WARNING"],
      ["stack-host: machine creation failing", "ERROR"],
      ["stack-host: no contact to GitLab", "CRITICAL"],
      ["stack-host: runner host not ready", "CRITICAL"],
    ]);
  });

  test("begin with a command, on the host itself, for whoever is woken", () => {
    for (const { documentation } of policies(monitored())) {
      expect(documentation.mime_type).toBe("text/markdown");
      expect(documentation.content).toMatch(
        /\n```sh\ngcloud compute ssh stack-(host|cache) --project=my-project --zone=europe-west1-b --tunnel-through-iap --command='sudo (runner|cache)-host doctor'\n```/,
      );
      expect(Buffer.byteLength(documentation.content)).toBeLessThan(8192);
    }
  });

  test("are accepted by Google before there are any metrics", () => {
    for (const { conditions } of policies(monitored())) {
      expect(conditions).toEqual([
        expect.objectContaining({
          condition_prometheus_query_language: expect.objectContaining({ disable_metric_validation: true }) as object,
        }),
      ]);
    }
  });

  test("know the disks by Google's number of the VM", () => {
    expect(query(policy(monitored(), "DiskFilling"))).toMatch(
      /instance_id="\$\{google_compute_instance\.Cache_\w+\.instance_id\}"/,
    );
  });

  test.each<[highWaterPercent: number, percent: number]>([
    [50, 55],
    [85, 90],
    [95, 97],
  ])("with room made from %i %% on, come from %i %% on", (highWaterPercent, percent) => {
    const filling = policy(monitored({ cacheHost: { highWaterPercent } }), "DiskFilling");
    expect(query(filling)).toMatch(new RegExp(`> ${percent}$`));
    expect(filling.documentation.content).toContain(`over ${percent} % full`);
  });

  test("leave that sum to Terraform for a variable", () => {
    const stack = synthesized((stack) =>
      create(stack, { cacheHost: { highWaterPercent: variable(stack).numberValue } }),
    );
    expect(query(policy(stack, "DiskFilling"))).toMatch(/> \$\{min\(\(?var\.tuned \+ 5\)?, 97\)\}$/);
  });
});

describe("queries", () => {
  /** The metrics of a query with what it says of their labels. */
  const selectors = (promql: string) =>
    [...promql.matchAll(/([a-z_:]+)\{([^}]*)\}/g)].map(([, name, matchers]) => ({
      name: name.replace(/_bucket$/, ""),
      matchers: [...matchers.matchAll(/([a-z_]+)(?:=~|!~|=)"([^"]*)"/g)].map(([, label, value]) => ({ label, value })),
    }));
  const stack = monitored();
  const all = [
    ...policies(stack).map(query),
    ...dashboard(stack).gridLayout.widgets.flatMap(({ xyChart }) =>
      xyChart.dataSets.map(({ timeSeriesQuery }) => timeSeriesQuery.prometheusQuery),
    ),
  ];
  const scraped = all.flatMap(selectors).filter(({ name }) => !name.startsWith("agent_googleapis_com:"));
  const known: PrometheusMetric[] = [...Object.values(RUNNER_METRICS), ...Object.values(REGISTRY_METRICS)];

  test("read the metrics that the real programs are tested for, and all of them", () => {
    expect([...new Set(scraped.map(({ name }) => name))].sort()).toEqual(known.map(({ name }) => name).sort());
  });

  test("name no other values of labels, and the host always", () => {
    for (const { name, matchers } of scraped) {
      const { labels } = known.find((metric) => metric.name === name)!;
      const host = name.startsWith("registry_") ? "stack-cache" : "stack-host";
      expect(matchers.slice(0, 2)).toEqual([
        { label: "project_id", value: "my-project" },
        { label: "instance_name", value: host },
      ]);
      for (const { label, value } of matchers.slice(2)) {
        expect(labels[label]).toContain(value);
      }
    }
  });

  test("group by no other labels", () => {
    const labels = known.flatMap(({ labels }) => Object.keys(labels));
    for (const [, label] of all.join("\n").matchAll(/(?:by|on) \(([a-z_]+)\)/g)) {
      expect(["le", ...labels]).toContain(label);
    }
  });
});

describe("the dashboard", () => {
  test("shows machines, jobs, times, GitLab's answers, and the cache host", () => {
    expect(dashboard(monitored()).displayName).toBe("stack-host");
    expect(charts(monitored())).toEqual([
      "Machines by state",
      "Jobs by state",
      "Queue time of jobs",
      "Creation time of machines",
      "Machines by action, in 15 minutes",
      "Answers of GitLab by status, a second",
      "Cache host: fill level of its disks",
      "Registry mirror: bytes a second",
    ]);
  });

  test("is JSON whatever its title is", () => {
    const name = '"\\ ${var.x} %{ if }';
    expect(dashboard(monitored({ monitoring: { name } })).displayName).toBe(name);
    expect(policies(monitored({ monitoring: { name } })).map(({ display_name: title }) => evaluated(title))).toContain(
      `${name}: runner host not ready`,
    );
  });
});

test("without a cache host nothing of one is watched", () => {
  const stack = monitored({ cacheHost: null });
  expect(policies(stack)).toHaveLength(3);
  expect(charts(stack)).toHaveLength(6);
});

test("project, titles, labels and who is told are as given", () => {
  const channel = "projects/other-project/notificationChannels/123";
  const stack = monitored({
    monitoring: { project: "other-project", name: "ci", labels: { team: "a" }, notificationChannels: [channel] },
  });
  for (const each of policies(stack)) {
    expect(each).toMatchObject({
      project: "other-project",
      display_name: expect.stringMatching(/^ci: /) as string,
      user_labels: { team: "a", "gitlab-runner": "stack-host" },
      notification_channels: [channel],
    });
  }
  expect(stack.one("google_monitoring_dashboard")).toMatchObject({ project: "other-project" });
  expect(policies(monitored())[0]).not.toHaveProperty("notification_channels");
});

test("variables are Terraform's to judge", () => {
  const stack = synthesized((stack) => {
    const { listValue, stringValue } = variable(stack);
    const labels = Token.asStringMap(variable(stack).value);
    create(stack, { monitoring: { notificationChannels: listValue, project: stringValue, labels } });
  });
  expect(policies(stack)[0]).toMatchObject({
    notification_channels: "${var.tuned}",
    project: "${var.tuned}",
    user_labels: '${merge(var.tuned, {"gitlab-runner" = "stack-host"})}',
  });
  const mixed = synthesized((stack) =>
    create(stack, { monitoring: { notificationChannels: [variable(stack).stringValue] } }),
  );
  expect(policies(mixed)[0]).toMatchObject({ notification_channels: ["${var.tuned}"] });
});

test("with the Ops Agent decided by a variable, so is every resource", () => {
  const stack = synthesized((stack) => {
    const opsAgent = variable(stack).booleanValue;
    create(stack, { host: { opsAgent }, cacheHost: { opsAgent } });
  });
  const resources = [...policies(stack), stack.one("google_monitoring_dashboard")];
  expect(resources.map(({ count }) => count)).toEqual(Array(5).fill("${var.tuned ? 1 : 0}"));
  expect(JSON.stringify([...policies(monitored()), ...monitored().all("google_monitoring_dashboard")])).not.toContain(
    '"count"',
  );
});

describe("against the rules", () => {
  test.each<[string, Given, string]>([
    [
      "a runner host without the Ops Agent",
      { host: { opsAgent: false } },
      "'runnerHost' must have 'opsAgent', which ships the metrics that are watched, got stack/Host without it",
    ],
    [
      "a cache host without the Ops Agent",
      { cacheHost: { opsAgent: false } },
      "'cacheHost' must have 'opsAgent', which ships the metrics that are watched, got stack/Cache without it",
    ],
    [
      "a notification channel that is an address",
      { monitoring: { notificationChannels: ["me@example.com"] } },
      `'notificationChannels' must be the name of a notification channel such as projects/my-project/notificationChannels/123 (gcloud beta monitoring channels list), got "me@example.com"`,
    ],
    [
      "a project number",
      { monitoring: { project: "123456" } },
      `'project' must be a Google Cloud project id (6 to 30 of a-z, 0-9 and -, beginning with a letter), not its name or number, got "123456"`,
    ],
    [
      "a bad label",
      { monitoring: { labels: { Team: "a" } } },
      `'labels' must be a label key (1 to 63 of a-z, 0-9, _ and -, beginning with a letter), got "Team"`,
    ],
    [
      "metrics where the agent does not look for them",
      { host: { listenAddress: ":9999" } },
      `'listenAddress' must be :9252 or 127.0.0.1:9252 with 'opsAgent', which reads the metrics there, got ":9999"`,
    ],
    [
      "no metrics at all",
      { host: { listenAddress: "" } },
      `'listenAddress' must be :9252 or 127.0.0.1:9252 with 'opsAgent', which reads the metrics there, got ""`,
    ],
  ])("%s", (_, given, message) => {
    expect(() => monitored(given)).toThrow(new Error(message));
  });
});
