import { MonitoringAlertPolicy } from "@cdktf/provider-google/lib/monitoring-alert-policy";
import { MonitoringDashboard } from "@cdktf/provider-google/lib/monitoring-dashboard";
import { Fn, Op, Token } from "cdktf";
import { Construct } from "constructs";
import { CacheHost } from "./cache-host";
import { dashboardJson } from "./dashboard";
import { HostVm } from "./host-vm";
import { checkLabels, Labels, mergeLabels } from "./labels";
import { countIf } from "./ops-agent";
import { disksOf, RUNNER_METRICS, scrapedOn } from "./prometheus-metrics";
import { numberText, terraformString } from "./rendering";
import { check, notificationChannel, projectId } from "./rules";
import { RunnerHost } from "./runner-host";

export interface RunnerMonitoringProps {
  /** The host that runs GitLab Runner, with `opsAgent`: without the agent there are no metrics to watch. */
  readonly runnerHost: RunnerHost;
  /**
   * The host with registry mirror and build cache, with `opsAgent`.
   *
   * @default - none is watched
   */
  readonly cacheHost?: CacheHost;
  /**
   * Who is told of an alert: names of notification channels, `projects/PROJECT/notificationChannels/ID`.
   *
   * @default - nobody: incidents show in Google Cloud's console only
   */
  readonly notificationChannels?: string[];
  /**
   * Project of the alert policies and the dashboard, which must see the hosts' metrics.
   *
   * @default - the project of the runner host
   */
  readonly project?: string;
  /**
   * Beginning of the titles of the alert policies and of the dashboard.
   *
   * @default - the name of the runner host
   */
  readonly name?: string;
  /**
   * Labels for the alert policies.
   *
   * @default - only the owner label `gitlab-runner`
   */
  readonly labels?: Labels;
}

interface Alert {
  readonly title: string;
  readonly severity: "CRITICAL" | "ERROR" | "WARNING";
  /** PromQL: it fires for every series that comes out, after so many seconds. */
  readonly query: string;
  readonly seconds: number;
  /** Markdown, for whoever is woken by it. */
  readonly text: string[];
}

/**
 * Alert policies and a dashboard of a runner host and its cache host. Each is there only while the Ops Agent of its host is on,
 * also if that is decided by a variable.
 */
export class RunnerMonitoring extends Construct {
  private readonly project: string;
  private readonly title: string;
  private readonly notificationChannels?: string[];
  private readonly labels: { [key: string]: string };

  constructor(scope: Construct, id: string, props: RunnerMonitoringProps) {
    super(scope, id);
    const { runnerHost, cacheHost } = props;
    requireOpsAgent("runnerHost", runnerHost);
    check(projectId, "project", props.project);
    if (!Token.isUnresolved(props.notificationChannels)) {
      props.notificationChannels?.forEach((name) => check(notificationChannel, "notificationChannels", name));
    }
    checkLabels(props.labels);
    this.project = props.project ?? runnerHost.project;
    this.title = props.name ?? runnerHost.name;
    this.notificationChannels = props.notificationChannels;
    this.labels = mergeLabels(props.labels, { "gitlab-runner": runnerHost.name });

    this.alert("NotReady", runnerHost, notReady(runnerHost));
    this.alert("NoContact", runnerHost, noContact(runnerHost));
    this.alert("NoMachines", runnerHost, noMachines(runnerHost));
    if (cacheHost !== undefined) {
      requireOpsAgent("cacheHost", cacheHost);
      this.alert("DiskFilling", cacheHost, diskFilling(cacheHost));
    }
    new MonitoringDashboard(this, "Dashboard", {
      count: countIf(runnerHost.opsAgent),
      project: this.project,
      dashboardJson: dashboardJson(this.title, runnerHost, cacheHost),
    });
  }

  private alert(id: string, host: HostVm, { title, severity, query, seconds, text }: Alert): void {
    new MonitoringAlertPolicy(this, id, {
      count: countIf(host.opsAgent),
      project: this.project,
      displayName: terraformString(`${this.title}: ${title}`),
      severity,
      combiner: "OR",
      conditions: [
        {
          displayName: title,
          conditionPrometheusQueryLanguage: {
            query,
            duration: `${seconds}s`,
            evaluationInterval: "60s",
            // Of a new deployment Google has not seen these metrics yet.
            disableMetricValidation: true,
          },
        },
      ],
      documentation: { content: text.join("\n\n"), mimeType: "text/markdown" },
      notificationChannels: this.notificationChannels,
      userLabels: this.labels,
    });
  }
}

function requireOpsAgent(property: string, { node, opsAgent }: HostVm): void {
  if (opsAgent === false) {
    throw new Error(
      `'${property}' must have 'opsAgent', which ships the metrics that are watched, got ${node.path} without it`,
    );
  }
}

function notReady(host: RunnerHost): Alert {
  return {
    title: "runner host not ready",
    severity: "CRITICAL",
    query: `absent(${RUNNER_METRICS.concurrent.name}${scrapedOn(host)})`,
    // As long as a new or replaced host takes to set itself up.
    seconds: 600,
    text: [
      `For ten minutes no metrics of GitLab Runner have come from the VM \`${host.name}\`: it is down or could not set itself up, gitlab-runner does not run, or the Ops Agent cannot ship them. While gitlab-runner is down, no job starts.`,
      first(host, "runner-host doctor"),
      "It names what is wrong and what to do. Where nobody can log in, look at what the VM wrote on its console:",
      code(
        `gcloud compute instances get-serial-port-output ${host.name} --project=${host.project} --zone=${host.zone} | tail -n 50`,
      ),
    ],
  };
}

function noContact(host: RunnerHost): Alert {
  const { limit, jobs, apiRequests } = RUNNER_METRICS;
  const answered = `sum by (runner) (increase(${apiRequests.name}${scrapedOn(host, 'status=~"2.."')}[5m])) > 0`;
  // With all its capacity taken by jobs that write nothing, a runner has nothing to ask for and nothing to tell.
  const busy = `sum by (runner) (${jobs.name}${scrapedOn(host)}) > 0`;
  return {
    title: "no contact to GitLab",
    severity: "CRITICAL",
    query: `${limit.name}${scrapedOn(host)} unless on (runner) (${answered}) unless on (runner) (${busy})`,
    // With those of the query ten minutes.
    seconds: 300,
    text: [
      `For ten minutes a runner of \`${host.name}\` has had no good answer of GitLab, and it runs no job: jobs stay pending. GitLab is down or out of reach, it refuses the runner's token, or there is no VM that could take a job.`,
      first(host, "runner-host doctor"),
      "It says whether GitLab can be reached and accepts each token, and what to do. What GitLab answered:",
      code(`${host.sshCommand} --command='sudo journalctl -u gitlab-runner -n 50'`),
    ],
  };
}

function noMachines(host: RunnerHost): Alert {
  const actions = (action: string) =>
    `sum(increase(${RUNNER_METRICS.machineActions.name}${scrapedOn(host, `action="${action}"`)}[15m]))`;
  return {
    title: "machine creation failing",
    severity: "ERROR",
    query: `${actions("creation-failed")} > (${actions("created")} or vector(0))`,
    seconds: 0,
    text: [
      `In 15 minutes \`${host.name}\` has failed to create more worker VMs than it has created: jobs wait. Mostly a quota is used up, the zone is out of that machine type, or an image or a right is missing. Google's own words are in the log:`,
      code(`${host.sshCommand} --command='sudo journalctl -u gitlab-runner --since=-30min | grep -i error'`),
      "Then, for what the host is missing:",
      code(`${host.sshCommand} --command='sudo runner-host doctor'`),
    ],
  };
}

function diskFilling(host: CacheHost): Alert {
  const high = host.highWaterPercent;
  // The host makes room within a minute from its mark on: what is far above it, that does not bring down.
  const percent = numberText(
    Token.isUnresolved(high) ? Token.asNumber(Fn.min([Op.add(high, 5), 97])) : Math.min(high + 5, 97),
  );
  return {
    title: "cache disk filling",
    severity: "WARNING",
    query: `${disksOf(host)} > ${percent}`,
    seconds: 600,
    text: [
      `A disk of the cache host \`${host.name}\` is over ${percent} % full, though the host makes room on its data disk from ${numberText(high)} % on. Once it is full no build cache is stored, and images come from their registries.`,
      first(host, "cache-host doctor"),
      "It says which disk, and what to do. To make room at once:",
      code(`${host.sshCommand} --command='sudo cache-host prune'`),
      "If that is not enough, make the data disk bigger (`cacheDiskGb`, variable `cache_disk_gb`; it grows in place) or keep less (`maxAgeDays`, `registryTtl`).",
    ],
  };
}

const first = (host: HostVm, command: string) => `First:\n\n${code(`${host.sshCommand} --command='sudo ${command}'`)}`;
const code = (command: string) => `\`\`\`sh\n${command}\n\`\`\``;
