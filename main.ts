import { GoogleProvider } from "@cdktf/provider-google/lib/provider";
import { NullProvider } from "@cdktf/provider-null/lib/provider";
import { App, GcsBackend, LocalBackend, TerraformOutput, TerraformStack, TerraformVariable, Token } from "cdktf";
import { Construct } from "constructs";
import {
  CacheHost,
  CacheHostProps,
  DockerMachineWorkers,
  DockerMachineWorkersProps,
  GITLAB_RUNNER_VERSION,
  RunnerHost,
  RunnerHostProps,
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

/**
 * The ready stack: a network of its own, a cache host, and a runner host with one runner whose jobs run on VMs made for them.
 * Every setting is a Terraform variable. What changes the shape (an existing network, schedules, a second runner) is chosen
 * in code: see examples/.
 */
export class GitlabRunnerStack extends TerraformStack {
  constructor(scope: Construct, id: string, props: GitlabRunnerStackProps = {}) {
    super(scope, id);
    this.addOverride("terraform.required_version", ">= 1.11");
    this.chooseBackend();

    const project = this.variable("project", "string", "Id of the Google Cloud project that everything is made in.", {
      rule: rules.projectId,
    }).stringValue;
    const region = this.variable("region", "string", "Region of the network.", {
      default: "us-central1",
      rule: rules.region,
    }).stringValue;
    const zoneVariable = this.variable("zone", "string", "Zone of all VMs, in that region.", {
      default: "us-central1-a",
      rule: rules.zone,
    });
    zoneVariable.addValidation({
      condition: '${startswith(var.zone, "${var.region}-")}',
      errorMessage: "'zone' must be a zone of 'region' (${var.region}), got ${var.zone}: set both.",
    });
    const zone = zoneVariable.stringValue;
    const name = this.variable(
      "name",
      "string",
      "Beginning of the names of all that is made: one for each deployment in a project.",
      {
        default: "gitlab-runner",
        rule: rules.baseName,
      },
    ).stringValue;
    const gitlabUrl = this.variable("gitlab_url", "string", "URL of GitLab, such as https://gitlab.com.", {
      rule: rules.httpUrl,
    }).stringValue;
    const tokenSecret = this.variable(
      "runner_token_secret",
      "string",
      "Id of the Secret Manager secret, in the same project, that holds the runner authentication token (glrt-…); not the token.",
      { rule: rules.secretId },
    ).stringValue;
    const concurrent = this.variable("concurrent", "number", "Most jobs at once.", {
      default: 10,
      rule: rules.integer(1, undefined, "jobs at once"),
    }).numberValue;
    const maxWorkers = this.variable(
      "max_workers",
      "number",
      "Most worker VMs (`limit`). While VMs are being removed there can be up to twice as many less one for a moment. 0 is no limit.",
      { default: 10, rule: rules.integer(0, undefined, "VMs; 0 is no limit") },
    ).numberValue;
    const idleCountVariable = this.variable(
      "idle_count",
      "number",
      "Worker VMs to keep ready (`IdleCount`), paid for around the clock. With 0 a job waits about a minute for its VM.",
      { default: 0, rule: rules.integer(0, undefined, "VMs") },
    );
    idleCountVariable.addValidation({
      condition: "${var.idle_count <= var.max_workers || var.max_workers == 0}",
      errorMessage: "'idle_count' must be at most 'max_workers' (${var.max_workers} VMs), got ${var.idle_count}.",
    });
    const idleTime = this.variable(
      "idle_time",
      "number",
      "Seconds that a worker VM waits for another job before it is removed (`IdleTime`).",
      {
        default: 600,
        rule: rules.integer(60, undefined, "seconds"),
      },
    ).numberValue;
    const maxBuilds = this.variable(
      "max_builds",
      "number",
      "Jobs that one worker VM may run (`MaxBuilds`); 0 is no limit. Use 1 with privileged jobs.",
      { default: 10, rule: rules.integer(0, undefined, "jobs a VM; 0 is no limit") },
    ).numberValue;
    const workerMachineType = this.variable("worker_machine_type", "string", "Machine type of the worker VMs.", {
      default: "e2-standard-2",
      rule: rules.machineType,
    }).stringValue;
    const workerImage = this.variable("worker_image", "string", "Image or image family of the worker VMs.", {
      default: WORKER_IMAGE,
      rule: rules.image,
    }).stringValue;
    const workerDiskVariable = this.variable("worker_disk_gb", "number", "Disk of each worker VM in GB.", {
      default: 50,
      rule: rules.integer(10, 65536, "GB"),
    });
    workerDiskVariable.addValidation({
      condition: `\${${diskFitsImage("var.worker_disk_gb", "var.worker_image")}}`,
      errorMessage: "'worker_disk_gb' must be at least the size of ${var.worker_image}, got ${var.worker_disk_gb}.",
    });
    const workerSpot = this.variable(
      "worker_spot",
      "bool",
      "Whether worker VMs are preemptible: cheaper, and Google may end one with its job.",
      {
        default: false,
      },
    ).booleanValue;
    const defaultImage = this.variable("default_image", "string", "Docker image of jobs that name none.", {
      default: "alpine:latest",
      rule: rules.nonEmpty,
    }).stringValue;
    const privileged = this.variable(
      "privileged",
      "bool",
      "Whether jobs are privileged, which docker-in-docker needs: such a job is root on its VM.",
      { default: false },
    ).booleanValue;
    const cacheDiskGb = this.variable(
      "cache_disk_gb",
      "number",
      "Disk of the registry mirror and the build cache in GB. It can grow, not shrink.",
      {
        default: 100,
        rule: rules.integer(10, 65536, "GB"),
      },
    ).numberValue;
    const cacheMaxAgeDays = this.variable(
      "cache_max_age_days",
      "number",
      "Days after which a build cache that was not written again is deleted.",
      {
        default: 14,
        rule: rules.integer(1, 3650, "days"),
      },
    ).numberValue;
    const gitlabRunnerVersion = this.variable(
      "gitlab_runner_version",
      "string",
      "Version of GitLab Runner. Changing it replaces the runner host.",
      {
        default: GITLAB_RUNNER_VERSION,
        rule: rules.gitlabRunnerVersion,
      },
    ).stringValue;
    const labels = Token.asStringMap(
      this.variable("labels", "map(string)", "Labels for all VMs, disks and secrets.", {
        default: {},
        rule: rules.labels,
      }).value,
    );
    this.warnOf(
      "unbounded_workers",
      "${var.max_workers != 0}",
      "max_workers is 0: nothing bounds the number of worker VMs, nor the bill.",
    );
    this.warnOf(
      "privileged_workers_used_again",
      "${!var.privileged || var.max_builds == 1}",
      "privileged jobs with max_builds other than 1: a job can leave something behind on its VM for the next one.",
    );
    this.warnOf(
      "idle_workers",
      "${var.idle_count == 0}",
      "idle_count is ${var.idle_count}: so many worker VMs are paid for around the clock.",
    );
    this.warnOf(
      "docker_machine_removed",
      '${tonumber(split(".", var.gitlab_runner_version)[0]) < 20}',
      "GitLab Runner 20.0 has no docker+machine executor: stay below it.",
    );

    new GoogleProvider(this, "google", { project, region, zone });
    new NullProvider(this, "null");
    const network = new RunnerNetwork(this, "Network", { project, region, name });
    const cacheHost = new CacheHost(this, "CacheHost", {
      project,
      zone,
      network,
      name: `${name}-cache`,
      cacheDiskGb,
      maxAgeDays: cacheMaxAgeDays,
      labels,
      ...props.cacheHost,
    });
    const host = new RunnerHost(this, "RunnerHost", {
      project,
      zone,
      network,
      name: `${name}-manager`,
      concurrent,
      gitlabRunnerVersion,
      labels,
      ...props.runnerHost,
    });
    new RunnerRegistration(this, "Runner", {
      host,
      name,
      gitlabUrl,
      token: { project, secretId: tokenSecret },
      cacheHost,
      docker: { image: defaultImage, privileged },
      workers: new DockerMachineWorkers(this, "Workers", {
        project,
        zone,
        network,
        name: `${name}-worker`,
        machineType: workerMachineType,
        image: workerImage,
        diskGb: workerDiskVariable.numberValue,
        spot: workerSpot,
        limit: maxWorkers,
        idleCount: idleCountVariable.numberValue,
        idleTime,
        maxBuilds,
        labels,
        ...props.workers,
      }),
    });

    this.output("runner_host", "Name of the VM that runs GitLab Runner.", host.name);
    this.output("runner_host_internal_address", "Its internal address.", host.internalAddress);
    this.output("cache_host", "Name of the VM with the registry mirror and the build cache.", cacheHost.name);
    this.output("cache_host_internal_address", "Its internal address.", cacheHost.internalAddress);
    this.output("registry_mirror_url", "URL of the registry mirror, inside the network.", cacheHost.registryMirrorUrl);
    this.output(
      "build_cache_endpoint",
      "host:port of the build cache's S3 server, inside the network.",
      cacheHost.buildCacheEndpoint,
    );
    this.output("ssh_runner_host", "Command that opens a shell on the runner host.", host.sshCommand);
    this.output("ssh_cache_host", "Command that opens a shell on the cache host.", cacheHost.sshCommand);
    this.output(
      "next_steps",
      "What to look at next.",
      `In GitLab the runner shows as online (${gitlabUrl}/admin/runners, or Settings > CI/CD > Runners of its group or project). Run a job, and watch its VM come and go: ` +
        `gcloud compute instances list --project=${project} --filter=labels.gitlab-runner-manager=${host.name}`,
    );
  }

  /** Without a bucket there is no backend in the JSON, so that whoever takes it brings an own one. */
  private chooseBackend(): void {
    const bucket: unknown = this.node.tryGetContext("stateBucket");
    if (typeof bucket === "string") {
      new GcsBackend(this, { bucket, prefix: this.node.id });
    } else {
      // For a stack without any, cdktf adds one with the absolute path of this folder.
      new LocalBackend(this, { path: "terraform.tfstate" });
      this.addOverride("terraform.backend", undefined);
    }
  }

  private variable<T>(
    id: string,
    type: string,
    description: string,
    { rule, ...config }: { readonly default?: unknown; readonly rule?: rules.Rule<T> },
  ): TerraformVariable {
    const validation = rule && [rules.validation(rule, id)];
    return new TerraformVariable(this, id, { type, description, nullable: false, validation, ...config });
  }

  /** A warning of `terraform plan`, for values that are legal but costly or risky: the annotations cannot see a variable's. */
  private warnOf(id: string, condition: string, errorMessage: string): void {
    this.addOverride(`check.${id}`, { assert: { condition, error_message: errorMessage } });
  }

  private output(id: string, description: string, value: string): void {
    new TerraformOutput(this, id, { description, value });
  }
}

if (require.main === module) {
  // cdktf takes a stack trace for every token, and to map those takes a fifth of the run. CDKTF_LOG_LEVEL=debug maps them.
  process.setSourceMapsEnabled(process.env["CDKTF_LOG_LEVEL"] === "debug");
  const app = new App();
  new GitlabRunnerStack(app, "gitlab-runner");
  app.synth();
}
