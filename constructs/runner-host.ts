import { ComputeInstance } from "@cdktf/provider-google/lib/compute-instance";
import { ProjectIamCustomRole } from "@cdktf/provider-google/lib/project-iam-custom-role";
import { ProjectIamMember } from "@cdktf/provider-google/lib/project-iam-member";
import { SecretManagerSecretIamMember } from "@cdktf/provider-google/lib/secret-manager-secret-iam-member";
import { ServiceAccountIamMember } from "@cdktf/provider-google/lib/service-account-iam-member";
import { Resource as NullResource } from "@cdktf/provider-null/lib/resource";
import {
  DefaultTokenResolver,
  Fn,
  Lazy,
  LocalExecProvisioner,
  StringConcat,
  TerraformResource,
  Token,
  Tokenization,
} from "cdktf";
import { Construct, IConstruct } from "constructs";
import { address, HostVm, HostVmProps } from "./host-vm";
import { idSuffix } from "./names";
import {
  AptRepository,
  DOCKER_MACHINE_DOWNLOAD,
  DOCKER_REPOSITORY,
  DockerMachineDownload,
  dockerMachineSettings,
  GITLAB_RUNNER_REPOSITORY,
  repositorySettings,
} from "./package-sources";
import { hostFile, numberText, stringExpression, terraformString } from "./rendering";
import { check, duration, gitlabRunnerVersion, integer, listenAddress } from "./rules";
import { globalTable, LogFormat, LogLevel, mergeTables, renderConfigToml, TomlTable } from "./runner-config";
import { relativePath } from "./self-link";
import { SecretReference } from "./secret-reference";
import { DOCKER_PACKAGES, GITLAB_RUNNER_VERSION } from "./versions";

export interface RunnerHostProps extends HostVmProps {
  /**
   * `concurrent`: most jobs at once, over all registrations of this host, at least 1.
   *
   * @default 10
   */
  readonly concurrent?: number;
  /**
   * `check_interval`: seconds between two questions for a job; 0 is GitLab Runner's default, 3.
   *
   * @default - not written
   */
  readonly checkInterval?: number;
  /**
   * `log_level`.
   *
   * @default - GitLab Runner's: info
   */
  readonly logLevel?: LogLevel;
  /**
   * `log_format`.
   *
   * @default "json"
   */
  readonly logFormat?: LogFormat;
  /**
   * `listen_address`: where Prometheus metrics are served, `[host]:port`, without authentication, as is pprof; an empty text
   * turns it off. A change takes effect when gitlab-runner starts again.
   *
   * @default - "127.0.0.1:9252"; with `metricsClientRanges` ":9252", all of the VM's addresses, of which none is public
   */
  readonly listenAddress?: string;
  /**
   * `shutdown_timeout`: seconds that a stop by force takes at most, up to 600.
   *
   * @default - GitLab Runner's: 30
   */
  readonly shutdownTimeout?: number;
  /**
   * `connection_max_age`: a Go duration.
   *
   * @default - GitLab Runner's: 15m
   */
  readonly connectionMaxAge?: string;
  /**
   * `sentry_dsn`: where the runner's own errors are reported.
   *
   * @default - nowhere
   */
  readonly sentryDsn?: string;
  /**
   * Version of GitLab Runner, at least 19.3.0. Changing it replaces the VM.
   *
   * @default - `GITLAB_RUNNER_VERSION`
   */
  readonly gitlabRunnerVersion?: string;
  /**
   * Where GitLab Runner is installed from.
   *
   * @default - GitLab's own repository (`GITLAB_RUNNER_REPOSITORY`)
   */
  readonly gitlabRunnerRepository?: AptRepository;
  /**
   * Where Docker is installed from.
   *
   * @default - Docker's own repository (`DOCKER_REPOSITORY`)
   */
  readonly dockerRepository?: AptRepository;
  /**
   * The packages that are installed from there, as apt takes them: `name=version`, with `*` for any part.
   *
   * @default - `DOCKER_PACKAGES`
   */
  readonly dockerPackages?: string[];
  /**
   * Where docker-machine is downloaded from.
   *
   * @default - GitLab's own download (`DOCKER_MACHINE_DOWNLOAD`), without a checksum
   */
  readonly dockerMachine?: DockerMachineDownload;
  /**
   * How many seconds `terraform apply` and `terraform destroy` let running jobs end before they stop, replace or delete the VM, 0
   * to 7200. The host takes no new job then, and deletes its workers. Needs `gcloud` where Terraform runs; without it, it goes at once.
   *
   * @default 3600
   */
  readonly drainTimeout?: number;
  /**
   * Anything else for the global section of config.toml, with GitLab's own keys; `null` removes a key.
   *
   * @default - nothing
   */
  readonly overrides?: TomlTable;
}

/**
 * What docker-machine's google driver calls, and no more: it makes, labels, starts, stops and removes VMs with their disks.
 * Besides, the host lists the project's VMs: one that is left behind is in nobody's books.
 * https://cloud.google.com/compute/docs/reference/rest/v1/instances
 */
const MANAGER_PERMISSIONS = [
  "compute.disks.create",
  "compute.disks.delete",
  "compute.disks.get",
  "compute.disks.setLabels",
  "compute.disks.use",
  "compute.images.useReadOnly",
  "compute.instances.create",
  "compute.instances.delete",
  "compute.instances.get",
  "compute.instances.list",
  "compute.instances.setLabels",
  "compute.instances.setMetadata",
  "compute.instances.setServiceAccount",
  "compute.instances.setTags",
  "compute.instances.start",
  "compute.instances.stop",
  "compute.projects.get",
  "compute.subnetworks.use",
  "compute.zoneOperations.get",
];

/** A VM that runs GitLab Runner: it asks GitLab for jobs and makes a VM for each, or gives it one that is idle. */
export class RunnerHost extends HostVm {
  /** Version of GitLab Runner. */
  public readonly gitlabRunnerVersion: string;

  private readonly runners: TomlTable[] = [];
  private readonly grants = new Set<string>();
  private readonly jobsNeed: IConstruct[] = [];
  private rendered?: string;

  constructor(scope: Construct, id: string, props: RunnerHostProps) {
    super(scope, id, props);
    const { project, zone, name } = this;
    this.gitlabRunnerVersion = props.gitlabRunnerVersion ?? GITLAB_RUNNER_VERSION;
    check(gitlabRunnerVersion, "gitlabRunnerVersion", this.gitlabRunnerVersion);
    check(integer(1, undefined, "jobs at once"), "concurrent", props.concurrent);
    check(integer(0, undefined, "seconds"), "checkInterval", props.checkInterval);
    check(integer(1, 600, "seconds"), "shutdownTimeout", props.shutdownTimeout);
    check(duration, "connectionMaxAge", props.connectionMaxAge);
    check(integer(0, 7200, "seconds"), "drainTimeout", props.drainTimeout);
    checkListenAddress(props);

    // Google keeps the id of a deleted role for weeks and gives it to nobody: a new deployment needs a new one.
    const roleSuffix = new NullResource(this, "RoleSuffix", {});
    const role = new ProjectIamCustomRole(this, "Role", {
      project,
      roleId: `gitlabRunner_${Fn.substr(Fn.sha256(stringExpression(`${name}/${roleSuffix.id}`)), 0, 8)}`,
      title: `GitLab Runner manager ${name}`,
      description: "What it takes to make worker VMs, and to remove them wherever they are left",
      permissions: MANAGER_PERMISSIONS,
    });
    this.neededAtBoot(new ProjectIamMember(this, "ManageVms", { project, role: role.name, member: this.member }));

    const global = mergeTables(
      globalTable({
        concurrent: props.concurrent ?? 10,
        checkInterval: props.checkInterval,
        logLevel: props.logLevel,
        logFormat: props.logFormat ?? "json",
        // A network may let everything in from inside, and jobs with it.
        listenAddress: props.listenAddress ?? (this.servesMetrics ? ":9252" : "127.0.0.1:9252"),
        shutdownTimeout: props.shutdownTimeout,
        connectionMaxAge: props.connectionMaxAge,
        sentryDsn: props.sentryDsn,
      }),
      props.overrides ?? {},
    );
    const packages = ["gitlab-runner", "gitlab-runner-helper-images"].map(
      (name) => `${name}=${this.gitlabRunnerVersion}-1`,
    );
    const instance = this.createInstance({
      template: "runner-host.yaml.hbs",
      settings: {
        docker: repositorySettings(
          "dockerRepository",
          props.dockerRepository ?? DOCKER_REPOSITORY,
          props.dockerPackages ?? DOCKER_PACKAGES,
        ),
        gitlabRunner: repositorySettings(
          "gitlabRunnerRepository",
          props.gitlabRunnerRepository ?? GITLAB_RUNNER_REPOSITORY,
          packages,
        ),
        dockerMachine: dockerMachineSettings(props.dockerMachine ?? DOCKER_MACHINE_DOWNLOAD),
        // A host that takes this one's place is the same runner manager to GitLab.
        managerIdentity: `${project}/${zone}/${name}`,
      },
      attributes: {
        "config-toml": Lazy.stringValue({ produce: () => this.renderConfig(global) }),
        "drain-timeout": numberText(props.drainTimeout ?? 3600),
      },
      metricsPort: metricsPort(global["listen_address"]),
    });
    this.drainBeforeItGoes(instance);
    this.node.addValidation({
      validate: () =>
        this.runners.length > 0
          ? []
          : [
              "no RunnerRegistration is attached to this host: GitLab Runner would ask nobody for jobs. Create one with this 'host'",
            ],
    });
  }

  private renderConfig(global: TomlTable): string {
    // Asked for several times in one synthesis, after the last registration.
    this.rendered ??= terraformString(renderConfigToml(global, this.runners));
    return this.rendered;
  }

  /** Adds a `[[runners]]` entry. Called by the registration. */
  public addRunner(runner: TomlTable): void {
    this.runners.push(runner);
    this.rendered = undefined;
  }

  /** What jobs of this host need until the last one has ended. Called by the registration. */
  public usedByJobs(construct: IConstruct): void {
    this.jobsNeed.push(construct);
  }

  /**
   * Goes before the instance does, and before a change that stops it: Terraform undoes what depends on a resource first. It
   * comes again after that. The provisioner of a destruction sees nothing but this resource's own triggers.
   */
  private drainBeforeItGoes({ instanceId, machineType }: ComputeInstance): void {
    const provisioner = (wanted: string, environment: { [name: string]: string }): LocalExecProvisioner => ({
      type: "local-exec",
      interpreter: ["/bin/sh", "-c"],
      // Terraform repeats the whole command before it says why that failed.
      command: 'eval "$DRAIN"',
      environment: { DRAIN: terraformString(hostFile("drain.sh")), WANTED: wanted, ...environment },
    });
    const { project: PROJECT, zone: ZONE, name: INSTANCE } = this;
    const drain = new NullResource(this, "Drain", {
      triggers: {
        project: PROJECT,
        zone: ZONE,
        instance: INSTANCE,
        instance_id: instanceId,
        // For a change of these Terraform stops the VM.
        machine_type: machineType,
        service_account: this.serviceAccountEmail,
        network: relativePath(this.network.network),
        subnetwork: relativePath(this.network.subnetwork),
      },
      provisioners: [
        provisioner("resume", { PROJECT, ZONE, INSTANCE }),
        {
          ...provisioner("drain", {
            PROJECT: "${self.triggers.project}",
            ZONE: "${self.triggers.zone}",
            INSTANCE: "${self.triggers.instance}",
          }),
          when: "destroy",
        },
      ],
    });
    const isResource = (construct: IConstruct) => TerraformResource.isTerraformResource(construct);
    const resources = () => this.jobsNeed.flatMap((construct) => construct.node.findAll().filter(isResource));
    drain.dependsOn = Lazy.listValue(
      { produce: () => [...new Set(resources().map((resource) => address(resource)))] },
      { omitEmpty: true },
    );
  }

  /** Lets the host read the secret. */
  public grantSecretAccess({ project, secretId }: SecretReference): void {
    this.grantOnce("ReadSecret", `${project}/${secretId}`, (id) => {
      const role = "roles/secretmanager.secretAccessor";
      return new SecretManagerSecretIamMember(this, id, { project, secretId, role, member: this.member });
    });
  }

  /** Lets the host make VMs that act as this service account. */
  public grantActAs(serviceAccountEmail: string): void {
    this.grantOnce("ActAs", serviceAccountEmail, (id) => {
      const serviceAccountId = `projects/${this.project}/serviceAccounts/${serviceAccountEmail}`;
      return new ServiceAccountIamMember(this, id, {
        serviceAccountId,
        role: "roles/iam.serviceAccountUser",
        member: this.member,
      });
    });
  }

  /** One member a right: were there two, the end of one registration would take the right from the other. */
  private grantOnce(kind: string, subject: string, grant: (id: string) => TerraformResource): void {
    const resolver = new DefaultTokenResolver(new StringConcat());
    const id = `${kind}${idSuffix(String(Tokenization.resolve(subject, { scope: this, resolver, preparing: false })))}`;
    if (!this.grants.has(id)) {
      this.grants.add(id);
      this.neededAtBoot(grant(id));
    }
  }
}

/** Where the Ops Agent scrapes the runner: cloud-init/runner-host/ops-agent.yaml. */
const SCRAPED = /^(|0\.0\.0\.0|127\.0\.0\.1|localhost|\[::\]):9252$/;

function checkListenAddress({ listenAddress: address, opsAgent }: RunnerHostProps): void {
  check(listenAddress, "listenAddress", address);
  if (opsAgent === true && address !== undefined && !Token.isUnresolved(address) && !SCRAPED.test(address)) {
    throw new Error(
      `'listenAddress' must be :9252 or 127.0.0.1:9252 with 'opsAgent', which reads the metrics there, got ${JSON.stringify(address)}`,
    );
  }
}

/** The port of a `listen_address`, as far as it is known. */
function metricsPort(address: unknown): string | undefined {
  return typeof address !== "string" || address === "" ? undefined : (/:([0-9]+)$/.exec(address)?.[1] ?? "9252");
}
