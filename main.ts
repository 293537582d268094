import { GoogleProvider } from "@cdktf/provider-google/lib/provider";
import { NullProvider } from "@cdktf/provider-null/lib/provider";
import {
  App,
  GcsBackend,
  TerraformOutput,
  TerraformStack,
  TerraformVariable,
  TerraformVariableValidationConfig,
  Token,
} from "cdktf";
import { Construct } from "constructs";
import {
  CacheHost,
  CacheHostProps,
  DockerMachineWorkers,
  DockerMachineWorkersProps,
  GITLAB_RUNNER_VERSION,
  RunnerHost,
  RunnerHostProps,
  RunnerMonitoring,
  RunnerNetwork,
  RunnerRegistration,
  WORKER_IMAGE,
} from "./constructs";
import * as rules from "./constructs/rules";
import { diskFitsImage } from "./constructs/worker-images";

export interface GitlabRunnerStackProps {
  /**
   * What the cache host has otherwise: package sources and images of mirrors behind a firewall, another machine type …
   *
   * @default - nothing
   */
  readonly cacheHost?: Partial<CacheHostProps>;
  /**
   * What the runner host has otherwise.
   *
   * @default - nothing
   */
  readonly runnerHost?: Partial<RunnerHostProps>;
  /**
   * What the workers have otherwise: schedules, tags …
   *
   * @default - nothing
   */
  readonly workers?: Partial<DockerMachineWorkersProps>;
}

interface VariableConfig<T> {
  readonly description: string;
  readonly default?: unknown;
  readonly rule?: rules.Rule<T>;
  /** Another rule, which compares it with other variables. */
  readonly validation?: TerraformVariableValidationConfig;
}

/**
 * The ready stack: a network of its own, a cache host, and a runner host with one runner whose jobs run on VMs made for them.
 * Every setting is a Terraform variable. What changes the shape (an existing network, schedules, a second runner) is chosen
 * in code: see examples/.
 */
export class GitlabRunnerStack extends TerraformStack {
  /** Takes more registrations. */
  public readonly runnerHost: RunnerHost;
  public readonly cacheHost: CacheHost;
  public readonly workers: DockerMachineWorkers;
  public readonly network: RunnerNetwork;

  constructor(scope: Construct, id: string, props: GitlabRunnerStackProps = {}) {
    super(scope, id);
    this.addOverride("terraform.required_version", ">= 1.11");
    this.chooseBackend();
    const v = this.variables();
    this.warnings();
    const { project, region, zone, name, labels } = v;
    new GoogleProvider(this, "google", { project, region, zone });
    new NullProvider(this, "null");

    const network = new RunnerNetwork(this, "Network", { project, region, name });
    const cacheHost = new CacheHost(this, "CacheHost", {
      project,
      zone,
      network,
      labels,
      name: `${name}-cache`,
      cacheDiskGb: v.cacheDiskGb,
      maxAgeDays: v.cacheMaxAgeDays,
      registryTtl: v.registryTtl,
      opsAgent: v.monitoring,
      ...props.cacheHost,
    });
    const host = new RunnerHost(this, "RunnerHost", {
      project,
      zone,
      network,
      labels,
      name: `${name}-manager`,
      concurrent: v.concurrent,
      gitlabRunnerVersion: v.gitlabRunnerVersion,
      drainTimeout: v.drainTimeout,
      opsAgent: v.monitoring,
      ...props.runnerHost,
    });
    const workers = new DockerMachineWorkers(this, "Workers", {
      project,
      zone,
      network,
      labels,
      name: `${name}-worker`,
      machineType: v.workerMachineType,
      image: v.workerImage,
      diskGb: v.workerDiskGb,
      spot: v.workerSpot,
      limit: v.maxWorkers,
      idleCount: v.idleCount,
      idleTime: v.idleTime,
      maxBuilds: v.maxBuilds,
      ...props.workers,
    });
    new RunnerRegistration(this, "Runner", {
      host,
      workers,
      cacheHost,
      name,
      gitlabUrl: v.gitlabUrl,
      token: { project, secretId: v.runnerTokenSecret },
      docker: { image: v.defaultImage, privileged: v.privileged },
    });
    if (host.opsAgent !== false) {
      new RunnerMonitoring(this, "Monitoring", {
        runnerHost: host,
        cacheHost: cacheHost.opsAgent === false ? undefined : cacheHost,
        notificationChannels: v.notificationChannels,
        name,
        labels,
      });
    }
    this.network = network;
    this.cacheHost = cacheHost;
    this.runnerHost = host;
    this.workers = workers;
    this.outputs(host, cacheHost, v.gitlabUrl);
  }

  private variables() {
    return {
      project: this.variable("project", "string", {
        description: "Id of the Google Cloud project that everything is made in.",
        rule: rules.projectId,
      }).stringValue,
      region: this.variable("region", "string", {
        description: "Region of the network.",
        default: "us-central1",
        rule: rules.region,
      }).stringValue,
      zone: this.variable("zone", "string", {
        description: "Zone of all VMs, in that region.",
        default: "us-central1-a",
        rule: rules.zone,
        validation: {
          condition: '${startswith(var.zone, "${var.region}-")}',
          errorMessage: "'zone' must be a zone of 'region' (${var.region}), got ${var.zone}: set both.",
        },
      }).stringValue,
      name: this.variable("name", "string", {
        description: "Beginning of the names of all that is made: one for each deployment in a project.",
        default: "gitlab-runner",
        rule: rules.baseName,
      }).stringValue,
      gitlabUrl: this.variable("gitlab_url", "string", {
        description: "URL of GitLab, such as https://gitlab.com.",
        rule: rules.httpUrl,
      }).stringValue,
      runnerTokenSecret: this.variable("runner_token_secret", "string", {
        description:
          "Id of the Secret Manager secret, in the same project, that holds the runner authentication token (glrt-…); not the token.",
        rule: rules.secretId,
      }).stringValue,
      concurrent: this.variable("concurrent", "number", {
        description: "Most jobs at once.",
        default: 10,
        rule: rules.integer(1, undefined, "jobs at once"),
      }).numberValue,
      maxWorkers: this.variable("max_workers", "number", {
        description:
          "Most worker VMs (`limit`). While VMs are being removed there can be up to twice as many less one for a moment. 0 is no limit.",
        default: 10,
        rule: rules.integer(0, undefined, "VMs; 0 is no limit"),
      }).numberValue,
      idleCount: this.variable("idle_count", "number", {
        description:
          "Worker VMs to keep ready (`IdleCount`), paid for around the clock. With 0 a job waits about a minute for its VM.",
        default: 0,
        rule: rules.integer(0, undefined, "VMs"),
        validation: {
          condition: "${var.idle_count <= var.max_workers || var.max_workers == 0}",
          errorMessage: "'idle_count' must be at most 'max_workers' (${var.max_workers} VMs), got ${var.idle_count}.",
        },
      }).numberValue,
      idleTime: this.variable("idle_time", "number", {
        description: "Seconds that a worker VM waits for another job before it is removed (`IdleTime`).",
        default: 600,
        rule: rules.integer(60, undefined, "seconds"),
      }).numberValue,
      maxBuilds: this.variable("max_builds", "number", {
        description: "Jobs that one worker VM may run (`MaxBuilds`); 0 is no limit. Use 1 with privileged jobs.",
        default: 10,
        rule: rules.integer(0, undefined, "jobs a VM; 0 is no limit"),
      }).numberValue,
      workerMachineType: this.variable("worker_machine_type", "string", {
        description: "Machine type of the worker VMs.",
        default: "e2-standard-2",
        rule: rules.machineType,
      }).stringValue,
      workerImage: this.variable("worker_image", "string", {
        description: "Image or image family of the worker VMs.",
        default: WORKER_IMAGE,
        rule: rules.image,
      }).stringValue,
      workerDiskGb: this.variable("worker_disk_gb", "number", {
        description: "Disk of each worker VM in GB.",
        default: 50,
        rule: rules.integer(10, 65536, "GB"),
        validation: {
          condition: `\${${diskFitsImage("var.worker_disk_gb", "var.worker_image")}}`,
          errorMessage: "'worker_disk_gb' must be at least the size of ${var.worker_image}, got ${var.worker_disk_gb}.",
        },
      }).numberValue,
      workerSpot: this.variable("worker_spot", "bool", {
        description: "Whether worker VMs are preemptible: cheaper, and Google may end one with its job.",
        default: false,
      }).booleanValue,
      defaultImage: this.variable("default_image", "string", {
        description: "Docker image of jobs that name none.",
        default: "alpine:latest",
        rule: rules.nonEmpty,
      }).stringValue,
      privileged: this.variable("privileged", "bool", {
        description: "Whether jobs are privileged, which docker-in-docker needs: such a job is root on its VM.",
        default: false,
      }).booleanValue,
      cacheDiskGb: this.variable("cache_disk_gb", "number", {
        description:
          "Disk of the registry mirror and the build cache in GB. It grows in place; a smaller one is new and empty.",
        default: 100,
        rule: rules.integer(10, 65536, "GB"),
      }).numberValue,
      cacheMaxAgeDays: this.variable("cache_max_age_days", "number", {
        description: "Days after which a build cache that was not written again is deleted.",
        default: 14,
        rule: rules.integer(1, 3650, "days"),
      }).numberValue,
      registryTtl: this.variable("registry_ttl", "string", {
        description: "How long the registry mirror keeps what it fetched, as a Go duration; 0s until the disk is full.",
        default: "168h",
        rule: rules.duration,
      }).stringValue,
      drainTimeout: this.variable("drain_timeout", "number", {
        description:
          "Seconds that running jobs have to end before Terraform stops, replaces or deletes the runner host, where gcloud is.",
        default: 3600,
        rule: rules.integer(0, 7200, "seconds"),
      }).numberValue,
      gitlabRunnerVersion: this.variable("gitlab_runner_version", "string", {
        description: "Version of GitLab Runner. Changing it replaces the runner host.",
        default: GITLAB_RUNNER_VERSION,
        rule: rules.gitlabRunnerVersion,
      }).stringValue,
      monitoring: this.variable("monitoring", "bool", {
        description:
          "Whether both hosts ship logs and metrics to Google Cloud by the Ops Agent, with alert policies and a dashboard. Google bills them. Changing it replaces both hosts.",
        default: false,
      }).booleanValue,
      notificationChannels: this.variable("notification_channels", "list(string)", {
        description: "Who is told of alerts: names of Cloud Monitoring's notification channels.",
        default: [],
        rule: rules.notificationChannels,
      }).listValue,
      labels: Token.asStringMap(
        this.variable("labels", "map(string)", {
          description: "Labels for all VMs, disks and secrets.",
          default: {},
          rule: rules.labels,
        }).value,
      ),
    };
  }

  /** Warnings of `terraform plan` about what is legal but costly or risky: annotations cannot see a variable's value. */
  private warnings(): void {
    const warning = (id: string, condition: string, error_message: string) =>
      this.addOverride(`check.${id}`, { assert: { condition, error_message } });
    warning(
      "unbounded_workers",
      "${var.max_workers != 0}",
      "max_workers is 0: nothing bounds the number of worker VMs, nor the bill.",
    );
    warning(
      "privileged_workers_used_again",
      "${!var.privileged || var.max_builds == 1}",
      "privileged jobs with max_builds other than 1: a job can leave something behind on its VM for the next one.",
    );
    warning(
      "idle_workers",
      "${var.idle_count == 0}",
      "idle_count is ${var.idle_count}: so many worker VMs are paid for around the clock.",
    );
    warning(
      "docker_machine_removed",
      '${tonumber(split(".", var.gitlab_runner_version)[0]) < 20}',
      "GitLab Runner 20.0 has no docker+machine executor: stay below it.",
    );
  }

  private outputs(host: RunnerHost, cacheHost: CacheHost, gitlabUrl: string): void {
    const output = (id: string, description: string, value: string) =>
      new TerraformOutput(this, id, { description, value });
    output("runner_host", "Name of the VM that runs GitLab Runner.", host.name);
    output("runner_host_internal_address", "Its internal address.", host.internalAddress);
    output("cache_host", "Name of the VM with the registry mirror and the build cache.", cacheHost.name);
    output("cache_host_internal_address", "Its internal address.", cacheHost.internalAddress);
    output("registry_mirror_url", "URL of the registry mirror, inside the network.", cacheHost.registryMirrorUrl);
    output(
      "build_cache_endpoint",
      "host:port of the build cache's S3 server, inside the network.",
      cacheHost.buildCacheEndpoint,
    );
    output("ssh_runner_host", "Command that opens a shell on the runner host.", host.sshCommand);
    output("ssh_cache_host", "Command that opens a shell on the cache host.", cacheHost.sshCommand);
    output(
      "next_steps",
      "What to look at next.",
      `In GitLab the runner shows as online (${gitlabUrl}/admin/runners, or Settings > CI/CD > Runners of its group or project). ` +
        "Run a job, and watch its VM come and go: " +
        `gcloud compute instances list --project=${host.project} --filter=labels.gitlab-runner-manager=${host.name}`,
    );
  }

  /** Without a bucket there is no backend in the JSON, so that whoever takes it brings an own one. */
  private chooseBackend(): void {
    const bucket: unknown = this.node.tryGetContext("stateBucket");
    if (typeof bucket === "string") {
      new GcsBackend(this, { bucket, prefix: this.node.id });
    } else {
      // cdktf's own would have the absolute path of this folder in it.
      this.addOverride("terraform.backend", undefined);
    }
  }

  private variable<T>(id: string, type: string, { rule, validation, ...config }: VariableConfig<T>): TerraformVariable {
    const validations = [...(rule ? [rules.validation(rule, id)] : []), ...(validation ? [validation] : [])];
    return new TerraformVariable(this, id, { type, nullable: false, validation: validations, ...config });
  }
}

if (require.main === module) {
  // cdktf takes a stack trace for every token, and to map those takes a fifth of the run. CDKTF_LOG_LEVEL=debug maps them.
  process.setSourceMapsEnabled(process.env["CDKTF_LOG_LEVEL"] === "debug");
  const app = new App();
  new GitlabRunnerStack(app, "gitlab-runner");
  app.synth();
}
