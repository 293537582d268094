import { EventEmitter } from "node:events";
import { randomBytes } from "node:crypto";
import { Network } from "../network";
import { PROJECT, SUBNET, ZONE } from "../settings";
import { Disk } from "../vm";
import { type Api, ApiError, type Call, notInTheLab } from "./api";
import { checkFirewall, type Firewall, openingsOf } from "./firewall";
import { Iam } from "./iam";
import { Instance, type InstanceBody, type Labels, type Metadata } from "./instance";

const API = "https://www.googleapis.com/compute/v1/";
const RESOURCE =
  /^compute\/v1\/(projects\/[^/]+\/(?:global|(?:zones|regions)\/[^/]+))\/([a-zA-Z]+)(?:\/(.+?))?(?:\/([a-z][A-Za-z]+))?$/;

interface Resource {
  readonly name: string;
  readonly selfLink: string;
  [field: string]: unknown;
}

interface DiskResource extends Resource {
  sizeGb: string;
  users: string[];
  readonly store: Disk;
}

interface Operation {
  readonly finished: Promise<void>;
  readonly shown: { status: string; [field: string]: unknown };
}

/** What docker-machine of GitLab's fork would have put into its insert; the lab's upstream one tells it apart. */
export interface ForkOptions {
  readonly labels: Labels;
  readonly metadata: Labels;
  readonly skipFirewallCreate: boolean;
}

const path = (reference: unknown) => String(reference).replace(/^https:\/\/[^/]+\/compute\/v1\//, "");
const token = () => randomBytes(6).toString("base64url");
const number = () => String(BigInt(`0x${randomBytes(7).toString("hex")}`));

/** Compute Engine, with VMs behind its instances. Knows what the synthesized stack and docker-machine call. */
export class ComputeEngine implements Api {
  /** Emits "change" when what a metadata server shows may be different. */
  readonly changes = new EventEmitter().setMaxListeners(0);
  /** The most workers that existed at once since somebody set this to 0. */
  mostWorkers = 0;
  /** Why no worker can be inserted, if one cannot. */
  quotaExceeded?: string;
  /** Size of the disk that Docker of later workers has; else it is the machine's own. */
  workerDockerMegabytes?: number;
  /** Addresses, by name, of all instances that were ever inserted. */
  readonly inserted = new Map<string, string>();

  private readonly resources = new Map<string, Resource>();
  private readonly instances = new Map<string, Instance>();
  private readonly operations = new Map<string, Operation>();
  private readonly forkOptions = new Map<string, ForkOptions>();
  private lastAddress = 1;

  constructor(
    private readonly iam: Iam,
    private readonly network: Network,
    /** Image families by project/family, and the layers that they stand for. */
    private readonly images: { readonly [family: string]: readonly string[] },
  ) {}

  /** All instances that exist. */
  get all(): Instance[] {
    return [...this.instances.values()];
  }

  get workers(): Instance[] {
    return this.all.filter(({ name }) => name.startsWith("runner-"));
  }

  find(name: string): Instance {
    const instance = this.all.find((other) => other.name === name);
    if (!instance) {
      throw new Error(`There is no instance ${name}`);
    }
    return instance;
  }

  /** Paths of everything that exists. */
  get everything(): string[] {
    return [...this.resources.keys(), ...this.instances.keys()];
  }

  /** Somebody deletes it, without a word to whoever made it. */
  async lose(name: string): Promise<void> {
    await this.deleteInstance(path(this.find(name).selfLink), this.find(name));
  }

  setForkOptions(name: string, options: ForkOptions): void {
    this.forkOptions.set(name, options);
  }

  answer(call: Call): unknown {
    const match = RESOURCE.exec(call.path);
    if (!match) {
      if (call.path === `compute/v1/projects/${PROJECT}` && call.method === "GET") {
        this.iam.require(call.caller, "compute.projects.get");
        return { kind: "compute#project", name: PROJECT, id: "1" };
      }
      if (call.path === `compute/v1/projects/${PROJECT}/aggregated/instances` && call.method === "GET") {
        return this.aggregatedInstances(call);
      }
      throw notInTheLab(call);
    }
    const [, scope, collection, name, verb] = match as unknown as [string, string, string, string?, string?];
    switch (collection) {
      case "operations":
        return this.operation(call, scope, name!, verb);
      case "images":
        return this.image(call, name!, verb);
      case "instances":
        return this.instanceCall(call, scope, name, verb);
      case "networks":
      case "subnetworks":
      case "routers":
      case "firewalls":
      case "addresses":
      case "disks":
        return name === undefined
          ? this.insert(call, scope, collection)
          : this.resourceCall(call, scope, collection, name, verb);
    }
    throw notInTheLab(call);
  }

  private require(call: Call, permission: string): void {
    this.iam.require(call.caller, `compute.${permission}`);
  }

  // ---- operations

  private operate(scope: string, type: string, target: string, work: () => unknown): object {
    const name = `operation-${Date.now()}-${token()}`;
    const [, kind, place] = /\/(zone|region)s\/([^/]+)$/.exec(scope) ?? [];
    const shown: Operation["shown"] = {
      kind: "compute#operation",
      id: number(),
      name,
      operationType: type,
      targetLink: API + target,
      status: "RUNNING",
      selfLink: `${API}${scope}/operations/${name}`,
      ...(kind && { [kind]: `${API}${scope.replace(/\/[^/]+$/, "")}/${place}` }),
    };
    const finished = Promise.resolve()
      .then(work)
      .catch((error: Error) => {
        shown["error"] = { errors: [{ code: "INTERNAL_ERROR", message: error.message }] };
        Object.assign(shown, { httpErrorStatusCode: 500, httpErrorMessage: error.message });
      })
      .then(() => {
        shown.status = "DONE";
        this.changes.emit("change");
      });
    this.operations.set(`${scope}/${name}`, { finished, shown });
    return { ...shown };
  }

  private async operation(call: Call, scope: string, name: string, verb: string | undefined): Promise<object> {
    this.require(
      call,
      `${scope.includes("/zones/") ? "zone" : scope.includes("/regions/") ? "region" : "global"}Operations.get`,
    );
    const operation = this.operations.get(`${scope}/${name}`);
    if (!operation) {
      throw notFound(`${scope}/operations/${name}`);
    }
    if (verb === "wait") {
      await operation.finished;
    }
    return operation.shown;
  }

  // ---- what is not an instance

  private layersOf(image: string): readonly string[] {
    const [, project, name] = /projects\/([^/]+)\/global\/images\/(?:family\/)?([^/]+)$/.exec(path(image)) ?? [];
    const layers = this.images[`${project}/${name}`];
    if (!layers) {
      throw notFound(path(image));
    }
    return layers;
  }

  private image(call: Call, name: string, verb: string | undefined): object {
    this.require(call, "images.get");
    const image = `${call.path.replace("compute/v1/", "")}`;
    this.layersOf(image);
    const family = verb ?? name.replace(/^family\//, "");
    return { kind: "compute#image", name: family, family, status: "READY", diskSizeGb: "10", selfLink: API + image };
  }

  private required(reference: unknown): Resource {
    const resource = this.resources.get(path(reference));
    if (!resource) {
      throw new ApiError(400, `Invalid value: '${path(reference)}'. The referenced resource cannot be found.`);
    }
    return resource;
  }

  private usersOf(selfLink: string): string[] {
    return [...this.resources.values(), ...this.all.map((instance) => instance.shown())]
      .filter(
        (other) => other["selfLink"] !== selfLink && JSON.stringify({ ...other, users: 0 }).includes(`"${selfLink}"`),
      )
      .map((other) => String(other["selfLink"]));
  }

  private insert(call: Call, scope: string, collection: string): object {
    if (call.method !== "POST") {
      throw notInTheLab(call);
    }
    this.require(call, `${collection}.create`);
    const body = call.body as { name: string; [field: string]: unknown };
    const target = `${scope}/${collection}/${body.name}`;
    if (this.resources.has(target)) {
      throw new ApiError(409, `The resource '${target}' already exists`);
    }
    const resource: Resource = {
      ...body,
      kind: `compute#${collection.replace(/(ss)es$/, "$1").replace(/s$/, "")}`,
      id: number(),
      selfLink: API + target,
      fingerprint: token(),
      labelFingerprint: token(),
      creationTimestamp: new Date().toISOString(),
      ...(scope.includes("/regions/") && { region: API + scope }),
      ...(scope.includes("/zones/") && { zone: API + scope }),
    };
    for (const field of ["network", "subnetwork"]) {
      if (resource[field] !== undefined) {
        resource[field] = this.required(resource[field]).selfLink;
      }
    }
    switch (collection) {
      case "subnetworks":
        if (resource["ipCidrRange"] !== `${SUBNET.prefix}.0/${SUBNET.mask}`) {
          throw new ApiError(
            400,
            `The lab's network is ${SUBNET.prefix}.0/${SUBNET.mask}, no ${String(resource["ipCidrRange"])}`,
          );
        }
        resource["gatewayAddress"] = SUBNET.gateway;
        break;
      case "addresses":
        resource["address"] ??= this.freeAddress();
        resource["status"] = "RESERVED";
        break;
      case "disks":
        return this.insertDisk(scope, target, resource);
      case "firewalls":
        checkFirewall(body);
        break;
    }
    this.resources.set(target, resource);
    return this.operate(scope, "insert", target, () => this.filterTraffic());
  }

  private insertDisk(scope: string, target: string, resource: Resource): object {
    resource["type"] = API + path(resource["type"]);
    const store = new Disk(resource.name);
    const disk: DiskResource = { ...resource, status: "READY", users: [], sizeGb: String(resource["sizeGb"]), store };
    this.resources.set(target, disk);
    return this.operate(scope, "insert", target, () => store.resize(Number(disk.sizeGb)));
  }

  private resourceCall(call: Call, scope: string, collection: string, name: string, verb: string | undefined): object {
    const target = `${scope}/${collection}/${name}`;
    const action = verb ?? { GET: "get", DELETE: "delete", PATCH: "update", PUT: "update" }[call.method];
    if (collection === "firewalls" && action === "get" && this.skipsFirewall(name)) {
      return { kind: "compute#firewall", name, allowed: [{ IPProtocol: "tcp", ports: ["22", "2376"] }] };
    }
    this.require(call, `${collection}.${action}`);
    const resource = this.resources.get(target);
    if (!resource) {
      throw notFound(target);
    }
    const body = (call.body ?? {}) as { [field: string]: unknown };
    switch (action) {
      case "get": {
        const { store: _, ...shown } = resource;
        return shown;
      }
      case "update":
        if (
          body["fingerprint"] !== undefined &&
          body["fingerprint"] !== resource["fingerprint"] &&
          collection !== "routers"
        ) {
          throw new ApiError(412, "Invalid fingerprint.");
        }
        return this.operate(scope, "patch", target, () => {
          Object.assign(resource, body, { fingerprint: token() });
          return this.filterTraffic();
        });
      case "delete":
        return this.deleteResource(scope, target, resource);
      case "setLabels":
        requireFingerprint(body["labelFingerprint"], resource["labelFingerprint"]);
        return this.operate(scope, verb!, target, () => {
          Object.assign(resource, { labels: body["labels"], labelFingerprint: token() });
        });
      case "resize":
        return this.operate(scope, verb!, target, async () => {
          const disk = resource as DiskResource;
          if (Number(body["sizeGb"]) < Number(disk.sizeGb)) {
            throw new Error("A disk cannot be made smaller.");
          }
          await disk.store.resize(Number(body["sizeGb"]));
          disk.sizeGb = String(body["sizeGb"]);
        });
    }
    throw notInTheLab(call);
  }

  private deleteResource(scope: string, target: string, resource: Resource): object {
    const users = "store" in resource ? (resource as DiskResource).users : this.usersOf(resource.selfLink);
    if (users.length > 0) {
      const message = `The resource '${target}' is already being used by '${users[0]}'`;
      throw new ApiError(400, message, "resourceInUseByAnotherResource");
    }
    return this.operate(scope, "delete", target, async () => {
      this.resources.delete(target);
      await (resource as Partial<DiskResource>).store?.delete();
      await this.filterTraffic();
    });
  }

  /** Upstream's docker-machine looks for this rule, and makes it, unless it is told to skip that, which it does not know. */
  private skipsFirewall(name: string): boolean {
    return name === "docker-machines" && [...this.forkOptions.values()].some((options) => options.skipFirewallCreate);
  }

  /** Whom the firewall rules let in depends on all rules and on all instances. */
  private async filterTraffic(): Promise<void> {
    const isFirewall = ([target]: [string, Resource]) => target.includes("/global/firewalls/");
    const rules = [...this.resources].filter(isFirewall).map(([, rule]) => rule as unknown as Firewall);
    await Promise.all(
      this.all.map((instance) => this.network.open(instance.address, openingsOf(instance, rules, this.all))),
    );
  }

  private freeAddress(): string {
    const taken = [
      ...[...this.resources.values()].map((resource) => resource["address"]),
      ...this.all.map((instance) => instance.address),
    ];
    // Not one that was just given back: somebody may still have it in mind.
    for (let tries = 0; tries < 250; tries++) {
      this.lastAddress = this.lastAddress === 250 ? 2 : this.lastAddress + 1;
      const address = `${SUBNET.prefix}.${this.lastAddress}`;
      if (!taken.includes(address)) {
        return address;
      }
    }
    throw new ApiError(403, "IP_SPACE_EXHAUSTED", "quotaExceeded");
  }

  // ---- instances

  /** Those with a label, of all zones: there is one with VMs. */
  private aggregatedInstances(call: Call): object {
    this.require(call, "instances.list");
    const [, key, value] = /^labels\.([a-z][-_a-z0-9]*)=([-_a-z0-9]+)$/.exec(call.query.get("filter") ?? "") ?? [];
    if (key === undefined || call.query.has("pageToken")) {
      throw notInTheLab(call);
    }
    const instances = this.all.filter(({ currentLabels }) => currentLabels[key] === value);
    const warning = { code: "NO_RESULTS_ON_PAGE", message: "There are no results for this scope on this page." };
    const found = instances.length > 0 ? { instances: instances.map((instance) => instance.shown()) } : { warning };
    return {
      kind: "compute#instanceAggregatedList",
      items: { [`zones/${ZONE}`]: found, "zones/us-west9-z": { warning } },
    };
  }

  private instanceCall(call: Call, scope: string, name: string | undefined, verb: string | undefined): unknown {
    if (name === undefined) {
      if (call.method === "GET") {
        this.require(call, "instances.list");
        return { kind: "compute#instanceList", items: this.all.map((instance) => instance.shown()) };
      }
      return this.insertInstance(call, scope);
    }
    const target = `${scope}/instances/${name}`;
    const action = verb ?? { GET: "get", DELETE: "delete" }[call.method];
    this.require(call, `instances.${action}`);
    const instance = this.instances.get(target);
    if (!instance) {
      throw notFound(target);
    }
    const body = (call.body ?? {}) as { [field: string]: unknown };
    switch (action) {
      case "get":
        return instance.shown();
      case "getGuestAttributes":
        return instance.guestAttributesBelow(call.query.get("queryPath") ?? "");
      case "delete":
        return this.operate(scope, "delete", target, () => this.deleteInstance(target, instance));
      case "stop":
        return this.operate(scope, "stop", target, () => instance.stop());
      case "start":
        return this.operate(scope, "start", target, () => instance.start());
      case "setMetadata": {
        const metadata = body as unknown as Metadata;
        requireFingerprint(metadata.fingerprint, instance.metadataFingerprint);
        return this.operate(scope, "setMetadata", target, () => {
          instance.setMetadata(metadata, this.forkOptions.get(name)?.metadata);
        });
      }
      case "setLabels":
        requireFingerprint(body["labelFingerprint"], instance.labelFingerprint);
        return this.operate(scope, "setLabels", target, () => instance.setLabels(body["labels"] as Labels));
      case "setMachineType":
        return this.operate(scope, "setMachineType", target, () =>
          instance.setMachineType(String(body["machineType"])),
        );
    }
    throw notInTheLab(call);
  }

  private insertInstance(call: Call, scope: string): object {
    const asked = call.body as InstanceBody;
    const fork = this.forkOptions.get(asked.name);
    const body: InstanceBody = fork ? withForkOptions(asked, fork) : asked;
    const target = `${scope}/instances/${body.name}`;
    this.checkInsert(call, scope, body);
    if (this.instances.has(target)) {
      throw new ApiError(409, `The resource '${target}' already exists`);
    }
    if (this.quotaExceeded !== undefined && body.name.startsWith("runner-")) {
      throw new ApiError(403, this.quotaExceeded, "quotaExceeded");
    }
    const [nic] = body.networkInterfaces;
    const address = nic.networkIP ?? this.freeAddress();
    if (this.all.some((other) => other.address === address)) {
      throw new ApiError(
        400,
        `IP '${address}' is already being used by another resource.`,
        "resourceInUseByAnotherResource",
      );
    }
    const boot = body.disks.find((disk) => disk.boot)!;
    const attached = body.disks.filter((disk) => !disk.boot);
    const instance = new Instance(this.network, this.changes, {
      body,
      address,
      selfLink: API + target,
      zone: API + scope,
      dockerMegabytes: body.name.startsWith("runner-") ? this.workerDockerMegabytes : undefined,
      layers: this.layersOf(boot.initializeParams!.sourceImage),
      network: this.required(nic.network ?? this.required(nic.subnetwork)["network"]).selfLink,
      disks: attached.map(({ source, deviceName }) => {
        const disk = this.required(source) as DiskResource;
        return { selfLink: disk.selfLink, deviceName: deviceName ?? disk.name, attach: () => disk.store.attach() };
      }),
    });
    for (const { source } of attached) {
      (this.required(source) as DiskResource).users.push(instance.selfLink);
    }
    this.instances.set(target, instance);
    this.inserted.set(instance.name, address);
    this.mostWorkers = Math.max(this.mostWorkers, this.workers.length);
    return this.operate(scope, "insert", target, async () => {
      await this.filterTraffic();
      await instance.start();
    });
  }

  /** Which permissions an insert takes depends on what is in it. */
  private checkInsert(call: Call, scope: string, body: InstanceBody): void {
    if (!/^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$/.test(body.name)) {
      throw new ApiError(400, `Invalid value for field 'resource.name': '${body.name}'.`);
    }
    const [account] = body.serviceAccounts ?? [];
    const needed: [string, unknown][] = [
      ["instances.create", true],
      ["disks.create", body.disks.some((disk) => disk.initializeParams)],
      ["disks.setLabels", body.disks.some((disk) => disk.initializeParams?.labels)],
      ["instances.setMetadata", body.metadata?.items?.length],
      ["instances.setTags", body.tags?.items?.length],
      ["instances.setLabels", body.labels],
      ["instances.setServiceAccount", account],
      ["subnetworks.use", body.networkInterfaces.some((nic) => nic.subnetwork)],
      ["networks.use", body.networkInterfaces.some((nic) => !nic.subnetwork)],
      ["subnetworks.useExternalIp", body.networkInterfaces.some((nic) => nic.accessConfigs?.length)],
    ];
    needed.filter(([, wanted]) => wanted).forEach(([permission]) => this.require(call, permission));
    if (account) {
      this.iam.requireServiceAccount(account.email);
      const resource = `projects/${PROJECT}/serviceAccounts/${account.email}`;
      this.iam.require(call.caller, "iam.serviceAccounts.actAs", resource);
    }
    if (scope !== `projects/${PROJECT}/zones/${ZONE}`) {
      throw notFound(scope);
    }
    for (const [key, value] of Object.entries(body.labels ?? {})) {
      if (!/^[a-z][-_a-z0-9]{0,62}$/.test(key) || !/^[-_a-z0-9]{0,63}$/.test(value)) {
        throw new ApiError(400, `Invalid value for field 'resource.labels': '${key}=${value}'.`);
      }
    }
  }

  private async deleteInstance(target: string, instance: Instance): Promise<void> {
    await instance.delete();
    this.instances.delete(target);
    await this.filterTraffic();
    for (const resource of this.resources.values()) {
      const { users } = resource as Partial<DiskResource>;
      if (users) {
        resource["users"] = users.filter((user) => user !== instance.selfLink);
      }
    }
  }
}

const notFound = (what: string) => new ApiError(404, `The resource '${what}' was not found`);

function requireFingerprint(given: unknown, current: unknown): void {
  if (given !== current) {
    throw new ApiError(412, "Supplied fingerprint does not match current fingerprint.");
  }
}

function withForkOptions(body: InstanceBody, { labels, metadata }: ForkOptions): InstanceBody {
  const items = [...(body.metadata?.items ?? []), ...Object.entries(metadata).map(([key, value]) => ({ key, value }))];
  const disks = body.disks.map((disk) => ({
    ...disk,
    initializeParams: disk.initializeParams && { ...disk.initializeParams, labels },
  }));
  return { ...body, labels: { ...body.labels, ...labels }, metadata: { ...body.metadata, items }, disks };
}
