import type { ChildProcess } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { run, until } from "./commands";
import { Network } from "./network";
import { ProcessGroup } from "./process-group";
import { LOGS, STATE } from "./settings";

/** systemd-nspawn's exit status when the guest asked for a reboot. */
const REBOOT = 133;

export interface VmConfig {
  readonly name: string;
  readonly address: string;
  /** Folders of the root file system, the uppermost first. */
  readonly layers: readonly string[];
  /** Block devices by the name under which the guest finds them below /dev/disk/by-id. */
  readonly disks: { readonly [name: string]: string };
  /** Size of a disk of its own for Docker; else Docker is on the disk of this machine. */
  readonly dockerMegabytes?: number;
}

/** A system container that boots as a VM does: its own systemd, network and disks. */
export class Vm {
  private readonly folder: string;
  private readonly group: ProcessGroup;
  private process?: ChildProcess;
  private boots = 0;

  constructor(
    private readonly network: Network,
    readonly config: VmConfig,
    private readonly onHalt: () => void,
  ) {
    this.folder = join(STATE, "vms", config.name);
    this.group = groupOf(config.name);
    for (const name of ["upper", "work", "root", "docker", "containerd"]) {
      mkdirSync(join(this.folder, name), { recursive: true });
    }
  }

  async start(): Promise<void> {
    const { name, address } = this.config;
    const namespace = await this.network.attach(name, address);
    const log = openSync(join(LOGS, `${name}.console.log`), "a");
    writeSync(log, `--- boot ${++this.boots}\n`);
    this.process = this.group.spawn("unshare", this.bootCommand(namespace), { stdio: ["ignore", log, log] });
    closeSync(log);
    this.process.once("exit", (status) => {
      this.process = undefined;
      if (status === REBOOT) {
        void this.start();
      } else {
        this.onHalt();
      }
    });
  }

  /** Pulls the plug. The disks stay. */
  async stop(): Promise<void> {
    this.process?.removeAllListeners("exit");
    this.process = undefined;
    await this.group.kill();
    await this.network.detach(this.config.name, this.config.address);
  }

  /** Shuts it down in an orderly way, at the latest after 20 seconds. */
  async shutDown(): Promise<void> {
    this.process?.removeAllListeners("exit");
    await this.execute(["systemctl", "poweroff"]).catch(() => {});
    await until("shut down", 20, () => this.group.processes.length === 0).catch(() => {});
    await this.stop();
  }

  async delete(): Promise<void> {
    await this.stop();
    this.network.forget(this.config.name, this.config.address);
    rmSync(this.folder, { recursive: true, force: true });
  }

  async reboot(seconds = 60): Promise<void> {
    const before = this.boots;
    await this.execute(["systemctl", "reboot"]);
    await until(
      `${this.config.name} reboots`,
      seconds,
      () => this.boots > before && guestInit(this.config.name) !== undefined,
    );
  }

  /** Runs a command in the guest, as root. */
  async execute(
    command: readonly string[],
    options: { input?: string; timeoutSeconds?: number } = {},
  ): Promise<string> {
    const [program, ...args] = Vm.inside(this.config.name, command);
    return run(program, args, options);
  }

  shell(script: string, options: { input?: string; timeoutSeconds?: number } = {}): Promise<string> {
    return this.execute(["bash", "-ec", script], options);
  }

  /** What runs a command in the guest of that name. It needs no object for it, so that another process can do it too. */
  static inside(name: string, command: readonly string[]): string[] {
    const init = guestInit(name);
    if (init === undefined) {
      throw new Error(`${name} is not running`);
    }
    const environment = [
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      "HOME=/root",
      `TERM=${process.stdin.isTTY ? process.env["TERM"] : "dumb"}`,
    ];
    return [
      "nsenter",
      "-t",
      `${init}`,
      "-m",
      "-u",
      "-i",
      "-n",
      "-p",
      "-C",
      "--",
      "env",
      "-i",
      ...environment,
      ...command,
    ];
  }

  /** What mounts it. containerd's store is on it too, as on a VM. */
  private dockerDisk(): string {
    const { dockerMegabytes } = this.config;
    if (dockerMegabytes === undefined) {
      return ":";
    }
    const [disk, docker, containerd] = ["docker.img", "docker", "containerd"].map((name) => join(this.folder, name));
    return `{ test -e ${disk} || { truncate -s ${dockerMegabytes}M ${disk} && mkfs.ext4 -q ${disk}; }; } &&
      mount -o loop ${disk} ${docker} && mkdir -p ${docker}/containerd && mount --bind ${docker}/containerd ${containerd}`;
  }

  private bootCommand(namespace: string): string[] {
    const { name, layers, disks } = this.config;
    const root = join(this.folder, "root");
    const overlay = `lowerdir=${layers.join(":")},upperdir=${join(this.folder, "upper")},workdir=${join(this.folder, "work")}`;
    const guest = [
      ...["systemd-nspawn", "--quiet", "--boot", `--directory=${root}`, `--machine=${name}`],
      ...["--register=no", "--keep-unit", "--capability=all", `--network-namespace-path=${namespace}`],
      ...["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"],
      // Docker's storage cannot have an overlay below it.
      ...["docker", "containerd"].map((store) => `--bind=${join(this.folder, store)}:/var/lib/${store}`),
      ...Object.entries(disks).map(([disk, device]) => `--bind=${device}:/dev/disk/by-id/google-${disk}`),
    ];
    const environment = [
      "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
      "SYSTEMD_SECCOMP=0",
      "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network",
    ];
    // In mounts of its own, so that none is left when it ends, however it ends.
    const boot = 'eval "$1" && mount -t overlay overlay -o "$2" "$3" && shift 3 && exec env "$@"';
    const command = ["sh", "-c", boot, "sh", this.dockerDisk(), overlay, root, ...environment, ...guest];
    return ["--mount", "--propagation", "private", ...command];
  }
}

const groupOf = (name: string) => new ProcessGroup(`vm-${name}`);

/** Id, out here, of the guest's process 1. */
function guestInit(name: string): number | undefined {
  return groupOf(name).processes.find((id) => {
    try {
      return /^NSpid:.*\t1$/m.test(readFileSync(`/proc/${id}/status`, "utf8"));
    } catch {
      return false; // it ended just now
    }
  });
}

/** A disk that outlives VMs: a file behind a loop device. */
export class Disk {
  private readonly file: string;
  private device?: string;

  constructor(name: string) {
    this.file = join(STATE, "disks", name);
    mkdirSync(join(STATE, "disks"), { recursive: true });
  }

  async resize(sizeGb: number): Promise<void> {
    await run("truncate", ["-s", `${sizeGb}G`, this.file]);
  }

  async attach(): Promise<string> {
    this.device ??= (await run("losetup", ["--find", "--show", this.file])).trim();
    return this.device;
  }

  async delete(): Promise<void> {
    if (this.device !== undefined) {
      await run("losetup", ["--detach", this.device]);
    }
    rmSync(this.file, { force: true });
  }

  /** The loop devices of the lab, also of one that was killed. */
  static async all(): Promise<string[]> {
    const devices = await run("losetup", ["--list", "--noheadings", "--output", "NAME,BACK-FILE"]);
    const ours = devices.split("\n").filter((line) => line.includes(join(STATE, "disks")));
    return ours.map((line) => line.split(/\s+/)[0]);
  }

  static async detachAll(): Promise<void> {
    for (const device of await Disk.all()) {
      await run("losetup", ["--detach", device]);
    }
  }
}
