import { closeSync, existsSync, mkdirSync, openSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "./commands";
import { ProcessGroup } from "./process-group";
import {
  ADDRESSES,
  DOCKER_HUB_HOST,
  GITLAB_HOST,
  LAB,
  LOGS,
  METADATA_ADDRESS,
  PACKAGES_HOST,
  PROJECT,
  STATE,
  SUBNET,
  ZONE,
} from "./settings";

const NAMESPACE = LAB;
const DOMAIN = `c.${PROJECT}.internal`;
const leases = join(STATE, "dhcp");
const hosts = join(STATE, "hosts");

/** The MAC address that Google gives to an address. */
const macOf = (address: string) =>
  ["42:01", ...address.split(".").map((byte) => Number(byte).toString(16).padStart(2, "0"))].join(":");
const ip = (...args: string[]) => run("ip", args);
const linkOf = (address: string) => `v${address.split(".").slice(2).join("-")}`;

/** Something that a VM lets in. */
export interface Opening {
  readonly source: string;
  readonly ports: readonly string[];
}

/**
 * A network namespace with a bridge for the VMs, and on it whom they meet: the metadata server with DHCP and DNS, and what
 * stands for the Internet. No route leads out of it.
 */
export class Network {
  /** By address, for VMs that are attached and those that will be. */
  private readonly openings = new Map<string, readonly Opening[]>();
  private readonly attached = new Map<string, string>();

  /** A root file system that has iptables. */
  constructor(private readonly tools: string) {}

  static async create(): Promise<void> {
    mkdirSync(leases, { recursive: true });
    mkdirSync(hosts, { recursive: true });
    await ip("netns", "add", NAMESPACE);
    const here = (...args: string[]) => ip("-n", NAMESPACE, ...args);
    await here("link", "set", "lo", "up");
    // With an address of its own: else a bridge takes its lowest port's, and each new VM could change it under the others.
    await here("link", "add", "br0", "address", macOf(SUBNET.gateway), "type", "bridge");
    const own = [METADATA_ADDRESS, ...Object.values(ADDRESSES)].map((address) => `${address}/32`);
    for (const address of [`${SUBNET.gateway}/${SUBNET.mask}`, ...own]) {
      await here("addr", "add", address, "dev", "br0");
    }
    await here("link", "set", "br0", "up");
    startNameServer();
  }

  /** The namespace's program and arguments that a command is put behind, to run in this network. */
  static inside(command: readonly string[]): string[] {
    return ["nsenter", `--net=/run/netns/${NAMESPACE}`, "--", ...command];
  }

  /** A fresh network for a VM, as it finds one at every boot. Returns the path of its namespace. */
  async attach(name: string, address: string): Promise<string> {
    const namespace = `${NAMESPACE}-${name}`;
    await this.detach(name, address);
    writeFileSync(join(hosts, name), `${address} ${name}.${ZONE}.${DOMAIN} ${name}.${DOMAIN} ${name}\n`);
    writeFileSync(join(leases, name), `${macOf(address)},${address},${name}\n`);
    await ip("netns", "add", namespace);
    await ip("-n", namespace, "link", "set", "lo", "up");
    await ip(
      ...["-n", NAMESPACE, "link", "add", linkOf(address), "mtu", "1460", "type", "veth"],
      ...["peer", "name", "ens4", "mtu", "1460", "address", macOf(address), "netns", namespace],
    );
    await ip("-n", NAMESPACE, "link", "set", linkOf(address), "master", "br0", "up");
    this.attached.set(address, namespace);
    await this.filter(address);
    return `/run/netns/${namespace}`;
  }

  /** From now on a VM at that address lets in this, and answers to what it asked for itself, and nothing else. */
  async open(address: string, openings: readonly Opening[]): Promise<void> {
    if (JSON.stringify(openings) !== JSON.stringify(this.openings.get(address))) {
      this.openings.set(address, openings);
      await this.filter(address);
    }
  }

  /** In the namespace of the VM, before Docker's own rules there: nothing on the VM can tell it from a firewall outside. */
  private async filter(address: string): Promise<void> {
    const namespace = this.attached.get(address);
    if (namespace === undefined) {
      return;
    }
    const rules = (this.openings.get(address) ?? []).map(
      ({ source, ports }) =>
        `-s ${source} -p tcp -m multiport --dports ${ports.join(",").replaceAll("-", ":")} -j ACCEPT`,
    );
    const all = [
      "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
      `-s ${SUBNET.gateway} -p udp --sport 67 -j ACCEPT`,
      "-p icmp -j ACCEPT",
      ...rules,
      "-j DROP",
    ];
    const table = ["*mangle", "-F PREROUTING", ...all.map((rule) => `-A PREROUTING -i ens4 ${rule}`), "COMMIT", ""];
    // The table's other chains are the VM's own.
    const restore = ["chroot", this.tools, "iptables-restore", "--noflush"];
    await run("nsenter", [`--net=/run/netns/${namespace}`, ...restore], { input: table.join("\n") });
  }

  async detach(name: string, address: string): Promise<void> {
    this.attached.delete(address);
    // A namespace ends at some later time, with its link; deleting the link itself is done when it returns.
    await ip("-n", NAMESPACE, "link", "del", linkOf(address)).catch(() => {});
    if (existsSync(`/run/netns/${NAMESPACE}-${name}`)) {
      await ip("netns", "del", `${NAMESPACE}-${name}`);
    }
  }

  /** After this the name of a VM that is gone is unknown. */
  forget(name: string, address: string): void {
    this.openings.delete(address);
    rmSync(join(leases, name), { force: true });
    if (existsSync(join(hosts, name))) {
      writeFileSync(join(hosts, name), ""); // only so does dnsmasq notice
    }
    nameServer.processes.forEach((id) => process.kill(id, "SIGHUP"));
  }

  /** The network namespaces of the lab, also of one that was killed. */
  static all(): string[] {
    const namespaces = existsSync("/run/netns") ? readdirSync("/run/netns") : [];
    return namespaces.filter((name) => name === NAMESPACE || name.startsWith(`${NAMESPACE}-`));
  }

  static async remove(): Promise<void> {
    for (const name of Network.all()) {
      await ip("netns", "del", name).catch((error: Error) => {
        // Somebody else may be at it too.
        if (existsSync(`/run/netns/${name}`)) {
          throw error;
        }
      });
    }
  }
}

const nameServer = new ProcessGroup("dnsmasq");

function startNameServer(): void {
  const names: [string, string][] = [
    ["metadata.google.internal", METADATA_ADDRESS],
    ["googleapis.com", ADDRESSES.google],
    [DOCKER_HUB_HOST, ADDRESSES.dockerHub],
    [GITLAB_HOST, ADDRESSES.gitlab],
    [PACKAGES_HOST, ADDRESSES.packages],
  ];
  const options = [
    ...["--keep-in-foreground", "--no-resolv", "--no-hosts", "--pid-file=", "--user=root", "--log-facility=-"],
    ...["--bind-interfaces", "--interface=br0", "--local=/#/", `--hostsdir=${hosts}`],
    ...names.map(([name, address]) => `--address=/${name}/${address}`),
    `--dhcp-range=${SUBNET.prefix}.0,static,255.255.240.0,infinite`,
    ...[`--dhcp-hostsdir=${leases}`, `--dhcp-leasefile=${join(STATE, "dhcp.leases")}`],
    ...["--dhcp-authoritative", "--dhcp-ignore-names", "--no-ping"],
    ...[
      `router,${SUBNET.gateway}`,
      `dns-server,${METADATA_ADDRESS}`,
      `domain-name,${DOMAIN}`,
      `domain-search,${DOMAIN},google.internal`,
      "mtu,1460",
    ].map((option) => `--dhcp-option=option:${option}`),
  ];
  const log = openSync(join(LOGS, "dnsmasq.log"), "w");
  const [program, ...args] = Network.inside(["dnsmasq", ...options]);
  nameServer.spawn(program, args, { stdio: ["ignore", log, log] }).unref();
  closeSync(log);
}
