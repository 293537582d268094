import { randomBytes } from "node:crypto";
import type { EventEmitter } from "node:events";
import { Network } from "../network";
import { Vm } from "../vm";
import { ApiError } from "./api";

export interface Labels {
  readonly [key: string]: string;
}

export interface Metadata {
  readonly fingerprint?: string;
  readonly items?: readonly { readonly key: string; readonly value?: string }[];
}

/** What an insert asks for. */
export interface InstanceBody {
  readonly name: string;
  readonly machineType: string;
  readonly labels?: Labels;
  readonly metadata?: Metadata;
  readonly tags?: { readonly items?: readonly string[] };
  readonly serviceAccounts?: readonly { readonly email: string; readonly scopes: readonly string[] }[];
  readonly networkInterfaces: readonly {
    readonly network?: string;
    readonly subnetwork?: string;
    readonly networkIP?: string;
    readonly accessConfigs?: readonly object[];
  }[];
  readonly disks: readonly {
    readonly boot?: boolean;
    readonly source?: string;
    readonly deviceName?: string;
    readonly initializeParams?: {
      readonly sourceImage: string;
      readonly diskSizeGb?: string;
      readonly labels?: Labels;
    };
  }[];
  readonly [field: string]: unknown;
}

export interface InstanceConfig {
  readonly body: InstanceBody;
  readonly address: string;
  readonly selfLink: string;
  readonly zone: string;
  readonly network: string;
  readonly layers: readonly string[];
  readonly dockerMegabytes?: number;
  readonly disks: readonly {
    readonly selfLink: string;
    readonly deviceName: string;
    readonly attach: () => Promise<string>;
  }[];
}

const fingerprint = () => randomBytes(6).toString("base64");

/** A VM, as Compute Engine and its metadata server show it. */
export class Instance {
  readonly id = String(BigInt(`0x${randomBytes(7).toString("hex")}`));
  readonly name: string;
  readonly address: string;
  readonly selfLink: string;
  status = "PROVISIONING";
  /** namespace/key → value, as the guest publishes them. */
  readonly guestAttributes = new Map<string, string>();
  /** Every value that was ever published, with its time, such as `gitlab-runner/status=ready`. */
  readonly published: { readonly time: number; readonly text: string }[] = [];
  metadataFingerprint = fingerprint();
  /** When its metadata were set last. */
  metadataChanged = 0;
  labelFingerprint = fingerprint();

  private readonly creationTimestamp = new Date().toISOString();
  private attributes: { readonly [key: string]: string };
  private labels: Labels;
  private machineType: string;
  private virtualMachine?: Vm;

  constructor(
    private readonly network: Network,
    private readonly changes: EventEmitter,
    private readonly config: InstanceConfig,
  ) {
    const { body } = config;
    this.name = body.name;
    this.address = config.address;
    this.selfLink = config.selfLink;
    this.attributes = attributesOf(body.metadata);
    this.labels = body.labels ?? {};
    this.machineType = body.machineType;
  }

  get vm(): Vm {
    if (!this.virtualMachine) {
      throw new Error(`${this.name} was not started yet`);
    }
    return this.virtualMachine;
  }

  get metadata(): { readonly [key: string]: string } {
    return this.attributes;
  }

  get currentLabels(): Labels {
    return this.labels;
  }

  get tags(): readonly string[] {
    return this.config.body.tags?.items ?? [];
  }

  get networkLink(): string {
    return this.config.network;
  }

  get machineTypeName(): string {
    return this.machineType.replace(/^.*\//, "");
  }

  get serviceAccount(): { readonly email: string; readonly scopes: readonly string[] } | undefined {
    return this.config.body.serviceAccounts?.[0];
  }

  async start(): Promise<void> {
    if (!this.virtualMachine) {
      const { address, layers, dockerMegabytes } = this.config;
      const disks: { [name: string]: string } = {};
      for (const { deviceName, attach } of this.config.disks) {
        disks[deviceName] = await attach();
      }
      this.virtualMachine = new Vm(this.network, { name: this.name, address, layers, disks, dockerMegabytes }, () => {
        this.status = "TERMINATED";
      });
    }
    await this.virtualMachine.start();
    this.status = "RUNNING";
  }

  async stop(): Promise<void> {
    this.status = "STOPPING";
    await this.vm.shutDown();
    this.status = "TERMINATED";
  }

  async delete(): Promise<void> {
    this.status = "STOPPING";
    await this.vm.delete();
  }

  publish(key: string, value: string): void {
    this.guestAttributes.set(key, value);
    this.published.push({ time: Date.now(), text: `${key}=${value}` });
    this.changes.emit("status", `${this.name}: ${key}=${value}`);
    this.changes.emit("change");
  }

  /** Those of a namespace, given as `namespace/`. 404 where there are none, as at Google. */
  guestAttributesBelow(prefix: string): object {
    const below = [...this.guestAttributes].filter(([key]) => key.startsWith(prefix));
    if (below.length === 0) {
      throw new ApiError(404, `The resource '${this.selfLink}/guestAttributes/${prefix}' was not found`);
    }
    const items = below.map(([key, value]) => {
      const [namespace, name] = key.split("/");
      return { namespace, key: name, value };
    });
    return { kind: "compute#guestAttributes", queryPath: prefix, queryValue: { items } };
  }

  /** Replaces all of it; `kept` stays in any case. */
  setMetadata(metadata: Metadata, kept: Labels = {}): void {
    this.attributes = { ...kept, ...attributesOf(metadata) };
    this.metadataFingerprint = fingerprint();
    this.metadataChanged = Date.now();
    this.changes.emit("change");
  }

  setLabels(labels: Labels): void {
    this.labels = labels;
    this.labelFingerprint = fingerprint();
  }

  setMachineType(machineType: string): void {
    if (this.status !== "TERMINATED") {
      throw new Error("Instance must be stopped to change its machine type.");
    }
    this.machineType = machineType;
  }

  shown(): { readonly selfLink: string; readonly [field: string]: unknown } {
    const { body, zone, disks, network } = this.config;
    return {
      ...body,
      kind: "compute#instance",
      id: this.id,
      creationTimestamp: this.creationTimestamp,
      selfLink: this.selfLink,
      status: this.status,
      zone,
      machineType: this.machineType,
      labels: this.labels,
      labelFingerprint: this.labelFingerprint,
      metadata: {
        fingerprint: this.metadataFingerprint,
        items: Object.entries(this.attributes).map(([key, value]) => ({ key, value })),
      },
      tags: { ...body.tags, fingerprint: "42" },
      networkInterfaces: body.networkInterfaces.map((nic) => ({
        ...nic,
        name: "nic0",
        network,
        networkIP: this.address,
      })),
      disks: [
        { boot: true, autoDelete: true, deviceName: "persistent-disk-0", source: `${zone}/disks/${this.name}` },
        ...disks.map(({ selfLink, deviceName }) => ({ source: selfLink, deviceName, mode: "READ_WRITE" })),
      ],
    };
  }
}

function attributesOf(metadata: Metadata = {}): { [key: string]: string } {
  return Object.fromEntries((metadata.items ?? []).map(({ key, value = "" }) => [key, value]));
}
