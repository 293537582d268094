/** A metric, and the labels by which the alerts and the dashboard tell its series apart: the values that they name, if any. */
export interface PrometheusMetric {
  readonly name: string;
  readonly labels: { readonly [label: string]: readonly string[] };
}

/** What is read of gitlab-runner's `/metrics`. https://docs.gitlab.com/runner/monitoring/ */
export const RUNNER_METRICS = {
  /** There as soon as gitlab-runner runs. */
  concurrent: { name: "gitlab_runner_concurrent", labels: {} },
  /** One for each `[[runners]]` entry. */
  limit: { name: "gitlab_runner_limit", labels: { runner: [] } },
  /** One for each state of a job that runs, none while nothing does. */
  jobs: { name: "gitlab_runner_jobs", labels: { runner: [], state: [] } },
  jobQueueDuration: { name: "gitlab_runner_job_queue_duration_seconds", labels: {} },
  /** What GitLab answered. A request without an answer is not in it. */
  apiRequests: { name: "gitlab_runner_api_request_statuses_total", labels: { runner: [], status: ["2.."] } },
  machineStates: { name: "gitlab_runner_autoscaling_machine_states", labels: { state: [] } },
  machineActions: {
    name: "gitlab_runner_autoscaling_actions_total",
    labels: { action: ["created", "creation-failed"] },
  },
  machineCreationDuration: { name: "gitlab_runner_autoscaling_machine_creation_duration_seconds", labels: {} },
};

/** What is read of the registry mirror's. https://distribution.github.io/distribution/about/configuration/#prometheus */
export const REGISTRY_METRICS = {
  pulledBytes: { name: "registry_proxy_pulled_bytes_total", labels: {} },
  pushedBytes: { name: "registry_proxy_pushed_bytes_total", labels: {} },
};

/**
 * A selector of the metrics that the Ops Agent scrapes on that host: `ops-agent.yaml` adds its name. Who watches may see hosts of
 * that name in several projects.
 */
export function scrapedOn(host: { readonly project: string; readonly name: string }, ...matchers: string[]): string {
  return `{${[`project_id="${host.project}"`, `instance_name="${host.name}"`, ...matchers].join(", ")}}`;
}

/** A selector of how full the disks of a host are. The images of snaps, on loop devices, are always full. */
export function disksOf({ instanceId }: { readonly instanceId: string }): string {
  return `agent_googleapis_com:disk_percent_used{monitored_resource="gce_instance", instance_id="${instanceId}", state="used", device!~".*loop.*"}`;
}
