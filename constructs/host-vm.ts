import { createHash } from "crypto";
import { ComputeFirewall } from "@cdktf/provider-google/lib/compute-firewall";
import { ComputeInstance, ComputeInstanceAttachedDisk } from "@cdktf/provider-google/lib/compute-instance";
import { ServiceAccount } from "@cdktf/provider-google/lib/service-account";
import { Resource as NullResource } from "@cdktf/provider-null/lib/resource";
import { Fn, Lazy, TerraformResource, Token } from "cdktf";
import { Construct } from "constructs";
import { checkLabels, Labels, mergeLabels } from "./labels";
import { defaultName, serviceAccountId } from "./names";
import { NetworkAttachment, networkPaths, NetworkPaths, ownWayOut } from "./network-attachment";
import { opsAgentGrants, opsAgentSettings } from "./ops-agent";
import { AptRepository, OPS_AGENT_REPOSITORY } from "./package-sources";
import { hostFile, json, numberText, renderTemplate, terraformString } from "./rendering";
import { check, cidr, image, integer, machineType, nameWithRoom, projectId, resourceName, zone } from "./rules";
import { Flag } from "./runner-config";
import { HOST_IMAGE } from "./versions";

/** What `CacheHost` and `RunnerHost` have in common. */
export interface HostVmProps {
  /** Project id. */
  readonly project: string;
  /** Zone of the VM. */
  readonly zone: string;
  /** Where the VM is attached. It gets an internal address only: the network needs a way out, such as Cloud NAT. */
  readonly network: NetworkAttachment;
  /**
   * Name of the VM and, with suffixes, of what belongs to it: at most 55 of a-z, 0-9 and -; from a Terraform variable 6 to 30,
   * which its service account may have.
   *
   * @default - made from the construct's path
   */
  readonly name?: string;
  /**
   * Machine type of the VM.
   *
   * @default "e2-small"
   */
  readonly machineType?: string;
  /**
   * Boot image: Ubuntu 22.04 or later, or another Debian-like one with cloud-init. Changing it replaces the VM.
   *
   * @default - Ubuntu 24.04 LTS (`HOST_IMAGE`)
   */
  readonly image?: string;
  /**
   * Size of the boot disk in GB, at least 10.
   *
   * @default 20
   */
  readonly bootDiskGb?: number;
  /**
   * Labels for the VM and its disks.
   *
   * @default - only the owner label `gitlab-runner`
   */
  readonly labels?: Labels;
  /**
   * E-mail of an existing service account that the VM acts as, and no other host: it gets the rights that this host needs, and
   * loses them with it.
   *
   * @default - one is made for this host
   */
  readonly serviceAccountEmail?: string;
  /**
   * Whether SSH from Google's Identity-Aware Proxy is let in; each user also needs `roles/iap.tunnelResourceAccessor`.
   *
   * @default true
   */
  readonly sshThroughIap?: boolean;
  /**
   * IPv4 ranges that may read the host's Prometheus metrics, which are served without authentication, as is pprof beside them.
   *
   * @default - none
   */
  readonly metricsClientRanges?: string[];
  /**
   * Whether Google's Ops Agent ships the host's logs and metrics to Google Cloud, which bills them. Changing it replaces the VM.
   *
   * @default false
   */
  readonly opsAgent?: Flag;
  /**
   * Where the Ops Agent is installed from.
   *
   * @default - Google's own repository (`OPS_AGENT_REPOSITORY`)
   */
  readonly opsAgentRepository?: AptRepository;
  /**
   * How many seconds `terraform apply` waits until the host says that it is ready, and fails with the host's own words if it
   * is not; 0 does not wait.
   *
   * @default 900
   */
  readonly readyTimeout?: number;
}

/** What a host adds to that. */
export interface HostVmConfig {
  /** Template of the cloud-config in `cloud-init/`. */
  readonly template: string;
  /** What the programs of the set-up read: data, no secrets. Changing it, or the template, replaces the VM. */
  readonly settings: object;
  /** What else replaces the VM when it changes. */
  readonly replacedWith?: { [name: string]: string };
  /** Metadata attributes that programs on the host follow. Changing them does not touch the VM. */
  readonly attributes: { [key: string]: string };
  /** TCP port of its Prometheus metrics, if it serves any. */
  readonly metricsPort?: string;
  readonly attachedDisk?: ComputeInstanceAttachedDisk;
  readonly networkIp?: string;
}

/** https://cloud.google.com/iap/docs/using-tcp-forwarding#create-firewall-rule */
const IAP_RANGE = "35.235.240.0/20";

/** A VM that sets itself up by cloud-init and says when it is ready. */
export abstract class HostVm extends Construct {
  /** Name of the VM. */
  public readonly name: string;
  /** Project of the VM. */
  public readonly project: string;
  /** Zone of the VM. */
  public readonly zone: string;
  /** E-mail of the service account that the VM acts as. */
  public readonly serviceAccountEmail: string;
  /** Whether the Ops Agent ships its logs and metrics. */
  public readonly opsAgent: Flag;

  /** Where the VM is attached. */
  protected readonly network: NetworkPaths;

  private readonly hostProps: HostVmProps;
  private readonly needed: TerraformResource[] = [];
  private instance?: ComputeInstance;

  protected constructor(scope: Construct, id: string, props: HostVmProps) {
    super(scope, id);
    this.name = props.name ?? defaultName(this);
    check(projectId, "project", props.project);
    check(zone, "zone", props.zone);
    check(resourceName, "name", this.name);
    check(nameWithRoom, "name", this.name);
    check(machineType, "machineType", props.machineType);
    check(image, "image", props.image);
    check(integer(10, 65536, "GB, and no smaller than the image"), "bootDiskGb", props.bootDiskGb);
    check(integer(0, 3600, "seconds"), "readyTimeout", props.readyTimeout);
    checkLabels(props.labels);
    if (!Token.isUnresolved(props.metricsClientRanges)) {
      props.metricsClientRanges?.forEach((range) => check(cidr, "metricsClientRanges", range));
    }
    this.project = props.project;
    this.zone = props.zone;
    this.network = networkPaths(props.network, props.project, props.zone);
    this.hostProps = props;
    this.serviceAccountEmail =
      props.serviceAccountEmail ??
      new ServiceAccount(this, "ServiceAccount", {
        project: props.project,
        accountId: serviceAccountId(this.name),
        displayName: `GitLab Runner: ${this.name}`,
      }).email;
    this.opsAgent = props.opsAgent ?? false;
    opsAgentGrants(this, this.opsAgent, this.project, this.member).forEach((grant) => this.neededAtBoot(grant));
  }

  /** Labels of everything that belongs to this host. */
  protected get labels(): { [key: string]: string } {
    return mergeLabels(this.hostProps.labels, { "gitlab-runner": this.name });
  }

  /** The service account as a member of an IAM policy. */
  protected get member(): string {
    return `serviceAccount:${this.serviceAccountEmail}`;
  }

  /** A right without which the host cannot set itself up: it is there before the VM is. */
  protected neededAtBoot(resource: TerraformResource): void {
    this.needed.push(resource);
  }

  protected createInstance(config: HostVmConfig): ComputeInstance {
    const { hostProps: props, project } = this;
    const settings = {
      ...config.settings,
      opsAgent: opsAgentSettings(this.opsAgent, props.opsAgentRepository ?? OPS_AGENT_REPOSITORY),
    };
    // user-data changes in place, yet cloud-init reads it once: without this a change would reach no host.
    const bootstrap = new NullResource(this, "Bootstrap", {
      triggers: {
        programs: createHash("sha256")
          .update(renderTemplate(config.template, { settings: {} }))
          .digest("hex"),
        settings: terraformString(json(settings)),
        ...config.replacedWith,
      },
    });
    const instance = new ComputeInstance(this, "Resource", {
      project,
      zone: this.zone,
      name: this.name,
      machineType: props.machineType ?? "e2-small",
      allowStoppingForUpdate: true,
      bootDisk: {
        initializeParams: {
          image: props.image ?? HOST_IMAGE,
          size: props.bootDiskGb ?? 20,
          type: "pd-balanced",
          labels: this.labels,
        },
      },
      attachedDisk: config.attachedDisk && [config.attachedDisk],
      networkInterface: [
        { network: this.network.network, subnetwork: this.network.subnetwork, networkIp: config.networkIp },
      ],
      // IAM alone says what the host may do; scopes would only hide a missing right behind a second lock.
      serviceAccount: { email: this.serviceAccountEmail, scopes: ["https://www.googleapis.com/auth/cloud-platform"] },
      shieldedInstanceConfig: { enableSecureBoot: true, enableVtpm: true, enableIntegrityMonitoring: true },
      labels: this.labels,
      metadata: {
        "user-data": terraformString(renderTemplate(config.template, { settings })),
        "enable-guest-attributes": "TRUE",
        "enable-oslogin": "TRUE",
        "block-project-ssh-keys": "TRUE",
        ...config.attributes,
      },
      lifecycle: {
        replaceTriggeredBy: [address(bootstrap)],
        // A new label is no reason to replace the VM, and on a boot disk it would be.
        ignoreChanges: ["boot_disk[0].initialize_params[0].labels"],
      },
    });
    instance.dependsOn = Lazy.listValue({ produce: () => this.needed.map(address) }, { omitEmpty: true });
    this.instance = instance;
    ownWayOut(this, this.network).forEach((wayOut) => this.neededAtBoot(wayOut));
    if (props.sshThroughIap ?? true) {
      new ComputeFirewall(this, "SshThroughIap", {
        project: this.network.project,
        name: `${this.name}-iap`,
        description: `SSH to ${this.name} through Identity-Aware Proxy`,
        network: this.network.network,
        sourceRanges: [IAP_RANGE],
        targetServiceAccounts: [this.serviceAccountEmail],
        allow: [{ protocol: "tcp", ports: ["22"] }],
      });
    }
    this.letMetricsClientsIn(config.metricsPort);
    this.waitUntilReady(instance, props.readyTimeout ?? 900);
    return instance;
  }

  /** Whether somebody else than the host itself may scrape its metrics. */
  protected get servesMetrics(): boolean {
    const { metricsClientRanges: ranges = [] } = this.hostProps;
    return Token.isUnresolved(ranges) || ranges.length > 0;
  }

  private letMetricsClientsIn(port: string | undefined): void {
    const { metricsClientRanges: ranges = [] } = this.hostProps;
    if (port === undefined || !this.servesMetrics) {
      return;
    }
    new ComputeFirewall(this, "Metrics", {
      project: this.network.project,
      name: `${this.name}-metrics`,
      description: `Prometheus metrics of ${this.name}`,
      network: this.network.network,
      sourceRanges: this.orItself(ranges),
      targetServiceAccounts: [this.serviceAccountEmail],
      allow: [{ protocol: "tcp", ports: [port] }],
    });
  }

  /** With nobody to let in the host lets itself in: a rule without a source would be open to the world. */
  protected orItself(ranges: string[]): string[] {
    const itself = [`${this.internalAddress}/32`];
    if (Token.isUnresolved(ranges)) {
      return Token.asList(Fn.coalescelist([ranges, itself]));
    }
    return ranges.length > 0 ? ranges : itself;
  }

  /** The VM's internal address. */
  public get internalAddress(): string {
    return this.instance!.networkInterface.get(0).networkIp;
  }

  /** Google's number for the VM, by which its own metrics know it. */
  public get instanceId(): string {
    return this.instance!.instanceId;
  }

  /** Command that opens a shell on the VM. */
  public get sshCommand(): string {
    return `gcloud compute ssh ${this.name} --project=${this.project} --zone=${this.zone} --tunnel-through-iap`;
  }

  private waitUntilReady(instance: ComputeInstance, timeout: number): void {
    if (timeout === 0) {
      return;
    }
    new NullResource(this, "Ready", {
      triggers: { instance: instance.instanceId },
      provisioners: [
        {
          type: "local-exec",
          interpreter: ["/bin/sh", "-c"],
          // Terraform repeats the whole command before it says why that failed.
          command: 'eval "$WAIT_FOR_READY"',
          environment: {
            WAIT_FOR_READY: terraformString(hostFile("wait-for-ready.sh")),
            PROJECT: this.project,
            ZONE: this.zone,
            INSTANCE: instance.name,
            TIMEOUT_SECONDS: numberText(timeout),
          },
        },
      ],
    });
  }
}

/** A resource's address, for the places where Terraform wants no expression. https://github.com/hashicorp/terraform-cdk/issues/3532 */
export function address(resource: TerraformResource): string {
  return `${resource.terraformResourceType}.${resource.friendlyUniqueId}`;
}
