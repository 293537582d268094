import { ComputeFirewall } from "@cdktf/provider-google/lib/compute-firewall";
import { ServiceAccount } from "@cdktf/provider-google/lib/service-account";
import { Annotations, Token } from "cdktf";
import { Construct } from "constructs";
import { checkLabels, Labels } from "./labels";
import { machineOptions } from "./machine-options";
import { defaultName, idSuffix, serviceAccountId } from "./names";
import { NetworkAttachment, networkPaths, NetworkPaths } from "./network-attachment";
import { check, diskType, image, integer, machineType, nameWithRoom, projectId, resourceName, zone } from "./rules";
import { AutoscalingConfig, Flag } from "./runner-config";
import { checkPeriod, checkTimezone } from "./schedule";
import { DOCKER_MACHINE_REMOVED_IN, WORKER_IMAGE } from "./versions";
import { isEndOfLife, minimumDiskGb } from "./worker-images";
import { RunnerWorkers, WorkersConfig, WorkersManager } from "./runner-workers";

export interface DockerMachineWorkersProps {
  /** Project id. */
  readonly project: string;
  /** Zone of the VMs. */
  readonly zone: string;
  /** Where the VMs are attached. They get internal addresses only: the network needs a way out, such as Cloud NAT. */
  readonly network: NetworkAttachment;
  /**
   * Name of the workers' service account and, with suffixes, of their firewall rules: at most 55 of a-z, 0-9 and -; from a
   * Terraform variable 6 to 30. The VMs' own names are given by GitLab Runner.
   *
   * @default - made from the construct's path
   */
  readonly name?: string;
  /**
   * Machine type of the VMs.
   *
   * @default "e2-standard-2"
   */
  readonly machineType?: string;
  /**
   * Image or image family of the VMs: Container-Optimized OS, Ubuntu or Debian.
   *
   * @default - Container-Optimized OS, stable (`WORKER_IMAGE`)
   */
  readonly image?: string;
  /**
   * Size of each VM's disk in GB, at least what the image needs: job images, sources and the local cache are on it.
   *
   * @default 50
   */
  readonly diskGb?: number;
  /**
   * Type of that disk.
   *
   * @default "pd-balanced"
   */
  readonly diskType?: string;
  /**
   * Whether VMs are preemptible: much cheaper, and Google may end one, with its job, at any time; after 24 hours it does.
   * docker-machine knows this older form of Spot VMs only.
   *
   * @default false
   */
  readonly spot?: Flag;
  /**
   * `limit`: most VMs, in every state from being made to being removed. GitLab Runner can overshoot it for a moment while VMs
   * are being removed, up to twice this number less one; leave that much room in the quota. 0 is no limit at all.
   *
   * @default 10
   */
  readonly limit?: number;
  /**
   * `IdleCount`: VMs to keep ready for the next job. 0 costs nothing while nothing runs; a job then waits for its VM.
   *
   * @default 0
   */
  readonly idleCount?: number;
  /**
   * `IdleScaleFactor`: VMs to keep ready as a share of those in use, at most `idleCount`; 0 is off.
   *
   * @default 0
   */
  readonly idleScaleFactor?: number;
  /**
   * `IdleCountMin`: VMs to keep ready at least when `idleScaleFactor` is used.
   *
   * @default - GitLab Runner's: 1 with a factor
   */
  readonly idleCountMin?: number;
  /**
   * `IdleTime`: seconds that a VM waits for another job before it is removed, at least 60: Google bills a minute anyway.
   *
   * @default 600
   */
  readonly idleTime?: number;
  /**
   * `MaxBuilds`: jobs that one VM may run before it is removed; 0 is no limit. Use 1 with privileged jobs, as GitLab recommends:
   * such a job can leave something behind for the next one.
   *
   * @default 10
   */
  readonly maxBuilds?: number;
  /**
   * `MaxGrowthRate`: most VMs that are being made at once; 0 is no limit.
   *
   * @default 0
   */
  readonly maxGrowthRate?: number;
  /**
   * `MachineName`: pattern of the VMs' names, with `%s` in the place of each VM's own part. The rest may have 22 of a-z, 0-9
   * and -: GitLab Runner adds 36 characters and docker-machine 5 for the disk, and Google ends at 63.
   *
   * @default "%s"
   */
  readonly machineName?: string;
  /**
   * Other idle values at other times. The last entry that matches holds as a whole: what it leaves out is 0.
   *
   * @default - the values above at all times
   */
  readonly autoscaling?: AutoscalingConfig[];
  /**
   * Labels for the VMs and their disks.
   *
   * @default - only the owner label `gitlab-runner-manager`, with the name of the runner host
   */
  readonly labels?: Labels;
  /**
   * Network tags for the VMs; docker-machine adds `docker-machine`.
   *
   * @default - none
   */
  readonly tags?: string[];
  /**
   * E-mail of an existing service account that the VMs act as. Give it no rights: what it may do, jobs may be able to do.
   *
   * @default - one is made, without any role
   */
  readonly serviceAccountEmail?: string;
  /**
   * OAuth scopes of that service account.
   *
   * @default - writing logs and metrics
   */
  readonly scopes?: string[];
  /**
   * Name of the user that docker-machine makes on each VM.
   *
   * @default "docker-user"
   */
  readonly username?: string;
  /**
   * How many seconds, 60 to 86400, a VM waits for its manager, which makes itself heard twice a minute. A VM that has heard nothing
   * for longer, and runs no job, powers itself off; after a day it does so below a job too. Google bills its disk until the manager,
   * or one that takes its place, is there again and deletes it. Holds for new VMs.
   *
   * @default 1800
   */
  readonly managerTimeout?: number;
  /**
   * How full a VM's disk may be, in percent, 50 to 95, before images and build caches that no container uses are deleted from it;
   * below 95 % that waits until no job runs there. Holds for new VMs.
   *
   * @default 80
   */
  readonly dockerHighWaterPercent?: number;
  /**
   * More options for `docker-machine create`, as in GitLab's `MachineOptions`: `engine-opt=…`, `google-accelerator=…`.
   *
   * @default - none
   */
  readonly machineOptions?: string[];
}

/** Executor `docker+machine`: each job runs in Docker on a VM that docker-machine makes, and removes when it is idle for long. */
export class DockerMachineWorkers extends Construct implements RunnerWorkers {
  /** Name of the service account and of the firewall rules. */
  public readonly name: string;
  /** Project of the VMs. */
  public readonly project: string;
  /** Where the VMs are attached. */
  public readonly network: NetworkPaths;
  /** E-mail of the service account that the VMs act as. */
  public readonly serviceAccountEmail: string;

  private readonly props: DockerMachineWorkersProps;

  constructor(scope: Construct, id: string, props: DockerMachineWorkersProps) {
    super(scope, id);
    this.name = props.name ?? defaultName(this);
    this.project = props.project;
    this.network = networkPaths(props.network, props.project, props.zone);
    this.props = props;
    this.checkProps();
    this.warn();
    this.serviceAccountEmail =
      props.serviceAccountEmail ??
      new ServiceAccount(this, "ServiceAccount", {
        project: props.project,
        accountId: serviceAccountId(this.name),
        displayName: `GitLab Runner workers: ${this.name}`,
      }).email;
  }

  public attach(manager: WorkersManager): WorkersConfig {
    const { props } = this;
    this.letIn(manager);
    return {
      executor: "docker+machine",
      limit: props.limit ?? 10,
      removedIn: DOCKER_MACHINE_REMOVED_IN,
      machine: {
        idleCount: props.idleCount ?? 0,
        idleScaleFactor: props.idleScaleFactor,
        idleCountMin: props.idleCountMin,
        idleTime: props.idleTime ?? 600,
        maxBuilds: props.maxBuilds ?? 10,
        maxGrowthRate: props.maxGrowthRate,
        machineDriver: "google",
        machineName: props.machineName ?? "%s",
        machineOptions: machineOptions({
          ...props,
          network: this.network,
          machineType: props.machineType ?? "e2-standard-2",
          image: props.image ?? WORKER_IMAGE,
          diskGb: props.diskGb ?? 50,
          diskType: props.diskType ?? "pd-balanced",
          username: props.username ?? "docker-user",
          scopes:
            props.scopes ??
            ["logging.write", "monitoring.write"].map((scope) => `https://www.googleapis.com/auth/${scope}`),
          serviceAccountEmail: this.serviceAccountEmail,
          owner: manager.name,
          registryMirrorUrl: manager.registryMirrorUrl,
          managerTimeout: props.managerTimeout ?? 1800,
          dockerHighWaterPercent: props.dockerHighWaterPercent ?? 80,
        }),
        autoscaling: props.autoscaling,
      },
    };
  }

  private letIn(manager: WorkersManager): void {
    const suffix = idSuffix(manager.path);
    if (this.node.tryFindChild(`FromManager${suffix}`) !== undefined) {
      return;
    }
    new ComputeFirewall(this, `FromManager${suffix}`, {
      project: this.network.project,
      name: `${this.name}-${suffix}`,
      description: `SSH and Docker from ${manager.name} to its workers`,
      network: this.network.network,
      sourceServiceAccounts: [manager.serviceAccountEmail],
      targetServiceAccounts: [this.serviceAccountEmail],
      allow: [{ protocol: "tcp", ports: ["22", "2376"] }],
    });
  }

  private checkProps(): void {
    const { props } = this;
    const workerImage = props.image ?? WORKER_IMAGE;
    check(projectId, "project", props.project);
    check(zone, "zone", props.zone);
    check(resourceName, "name", this.name);
    check(nameWithRoom, "name", this.name);
    check(machineType, "machineType", props.machineType);
    check(image, "image", props.image);
    check(diskType, "diskType", props.diskType);
    const imageName = Token.isUnresolved(workerImage) ? "the image" : workerImage;
    check(integer(minimumDiskGb(workerImage), 65536, `GB, the size of ${imageName} and up`), "diskGb", props.diskGb);
    check(integer(0, undefined, "VMs; 0 is no limit"), "limit", props.limit);
    check(integer(0, undefined, "VMs"), "idleCount", props.idleCount);
    check(integer(0, undefined, "VMs"), "idleCountMin", props.idleCountMin);
    check(integer(60, undefined, "seconds"), "idleTime", props.idleTime);
    check(integer(0, undefined, "jobs a VM; 0 is no limit"), "maxBuilds", props.maxBuilds);
    check(integer(0, undefined, "VMs; 0 is no limit"), "maxGrowthRate", props.maxGrowthRate);
    check(integer(60, 86400, "seconds"), "managerTimeout", props.managerTimeout);
    check(integer(50, 95, "percent"), "dockerHighWaterPercent", props.dockerHighWaterPercent);
    if (!Token.isUnresolved(props.tags)) {
      props.tags?.forEach((tag) => check(resourceName, "tags", tag));
    }
    checkFactor("idleScaleFactor", props.idleScaleFactor);
    checkMachineName(props.machineName);
    checkLabels(props.labels);
    this.checkIdle("idleCount", props.idleCount);
    props.autoscaling?.forEach((entry, index) => {
      const property = (name: string) => `autoscaling[${index}].${name}`;
      if (!Array.isArray(entry.periods) || entry.periods.length === 0) {
        throw new Error(`'${property("periods")}' must have at least one period, got ${JSON.stringify(entry.periods)}`);
      }
      if (!Token.isUnresolved(entry.periods)) {
        entry.periods.forEach((period) => checkPeriod(property("periods"), period));
      }
      checkTimezone(property("timezone"), entry.timezone);
      check(integer(0, undefined, "VMs"), property("idleCount"), entry.idleCount);
      check(integer(0, undefined, "VMs"), property("idleCountMin"), entry.idleCountMin);
      check(integer(0, undefined, "seconds"), property("idleTime"), entry.idleTime);
      checkFactor(property("idleScaleFactor"), entry.idleScaleFactor);
      this.checkIdle(property("idleCount"), entry.idleCount);
    });
  }

  private checkIdle(property: string, idleCount: number | undefined): void {
    const limit = this.props.limit ?? 10;
    if (idleCount === undefined || Token.isUnresolved(idleCount) || Token.isUnresolved(limit) || limit === 0) {
      return;
    }
    if (idleCount > limit) {
      throw new Error(`'${property}' must be at most 'limit' (${limit} VMs), got ${idleCount}`);
    }
  }

  private warn(): void {
    const { props } = this;
    const warnings = Annotations.of(this);
    if (props.limit === 0) {
      warnings.addWarning(
        "'limit' is 0: nothing bounds the number of VMs, nor the bill. Set the most VMs that you want to pay for.",
      );
    }
    const { image: workerImage = WORKER_IMAGE } = props;
    if (!Token.isUnresolved(workerImage) && isEndOfLife(workerImage)) {
      warnings.addWarning(
        `'image' is ${workerImage}: that family gets no security updates any more. Choose a newer one.`,
      );
    }
    const { idleCount = 0, autoscaling = [] } = props;
    if (!Token.isUnresolved(idleCount) && idleCount > 0 && !autoscaling.some((entry) => (entry.idleCount ?? 0) === 0)) {
      warnings.addWarning(
        `'idleCount' is ${idleCount} at all times: so many VMs are paid for around the clock. Lower it with 'autoscaling' for nights and weekends.`,
      );
    }
  }
}

function checkFactor(property: string, factor: number | undefined): void {
  if (factor !== undefined && !Token.isUnresolved(factor) && !(factor >= 0)) {
    throw new Error(`'${property}' must be at least 0 (VMs to keep ready for each one in use), got ${factor}`);
  }
}

function checkMachineName(machineName: string | undefined): void {
  if (machineName === undefined || Token.isUnresolved(machineName)) {
    return;
  }
  const parts = machineName.split("%s");
  if (parts.length !== 2) {
    throw new Error(
      `'machineName' must contain %s once, in whose place each VM's own part comes, got ${JSON.stringify(machineName)}`,
    );
  }
  const literal = parts.join("");
  if (!/^[a-z0-9-]{0,22}$/.test(literal) || machineName.endsWith("-")) {
    throw new Error(
      `'machineName' must have at most 22 of a-z, 0-9 and - besides %s and not end in - (with what is added to it a disk's name has to fit Google's 63 characters), got ${JSON.stringify(machineName)}`,
    );
  }
}
