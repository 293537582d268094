import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { Authority } from "./authority";
import { run } from "./commands";
import { CACHE, METADATA_ADDRESS, PACKAGES_HOST } from "./settings";

export const SUITE = "trixie";

/** What Google's Ubuntu image has and user-data may rely on; google-guest-agent is Google's own. */
const PACKAGES = [
  ...["systemd-sysv", "systemd-resolved", "dbus", "udev", "polkitd", "iproute2", "iputils-ping", "netbase", "procps"],
  ...["kmod", "ca-certificates", "curl", "gnupg", "sudo", "openssh-server", "e2fsprogs", "fdisk", "python3"],
  ...["cloud-init", "google-guest-agent", "google-compute-engine-oslogin", "iptables", "busybox-static"],
];
/** What Container-Optimized OS has besides. */
const WORKER_PACKAGES = ["docker.io", "docker-cli", "xz-utils"];
/** What the hosts take from the distribution or from the lab's Docker repository. */
const HOST_PACKAGES = ["docker.io", "docker-cli", "docker-compose", "docker-buildx", "xz-utils"];

/** Of no use in a container; udev would even act on the devices of the machine. */
const MASKED = [
  ...["systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-kernel.socket"],
  ...["systemd-udevd-control.socket", "systemd-udev-settle.service", "apt-daily.timer", "apt-daily-upgrade.timer"],
  ...["e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "getty.target", "console-getty.service"],
  ...["systemd-timesyncd.service", "dpkg-db-backup.timer"],
];

/** From here on the distribution is what the lab serves of it. */
const DISTRIBUTION_SOURCE = `deb [signed-by=/etc/apt/keyrings/lab.asc] https://${PACKAGES_HOST}/debian ${SUITE} main\n`;

/** systemd ignores the disks of /etc/fstab in a container, and no udev tells it of any. */
const MOUNT_DISKS = `[Unit]
Description=Lab: mount the disks of /etc/fstab
DefaultDependencies=no
After=systemd-remount-fs.service
Before=local-fs.target
Conflicts=umount.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/bin/mount -a

[Install]
WantedBy=local-fs.target
`;

/**
 * Root file systems of VMs, as layers for overlayfs: a distribution that looks as on Compute Engine, on it one with Docker
 * for workers, and the distribution's packages that a host installs.
 */
export class BaseImages {
  private readonly folder: string;

  constructor(private readonly authority: Authority) {
    const recipe = createHash("sha256").update(readFileSync(__filename)).update(authority.certificate);
    this.folder = join(CACHE, "base-images", recipe.digest("hex").slice(0, 12));
  }

  get host(): string[] {
    return [join(this.folder, "plain")];
  }

  get worker(): string[] {
    return [join(this.folder, "worker"), ...this.host];
  }

  /** The distribution's packages, as files. */
  get packages(): string {
    return join(this.folder, "packages");
  }

  async prepare(): Promise<void> {
    if (existsSync(this.folder)) {
      return;
    }
    // In memory: dpkg's many calls of fsync cost nothing there.
    const work = mkdtempSync("/dev/shm/lab-base-");
    try {
      await this.plain(join(work, "plain"));
      await this.docker(work);
      writeFileSync(join(work, "plain/etc/apt/sources.list"), DISTRIBUTION_SOURCE);
      writeFileSync(join(work, "plain/etc/apt/keyrings/lab.asc"), this.authority.repositoryKey);
      rmSync(join(CACHE, "base-images"), { recursive: true, force: true });
      const partial = `${this.folder}.partial`;
      mkdirSync(partial, { recursive: true });
      await run("cp", ["-a", ...["plain", "worker", "packages"].map((layer) => join(work, layer)), partial]);
      renameSync(partial, this.folder);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }

  private async plain(root: string): Promise<void> {
    await run("mmdebstrap", [
      ...["--mode=root", "--variant=minbase", "--components=main", "--quiet"],
      '--aptopt=Acquire::Languages "none"',
      '--aptopt=APT::Install-Recommends "false"',
      ...["man", "doc", "locale"].map((folder) => `--dpkgopt=path-exclude=/usr/share/${folder}/*`),
      ...[`--include=${PACKAGES.join(",")}`, SUITE, root, await packageMirror()],
    ]);
    const write = (path: string, text: string) => {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), text);
    };
    // cloud-init asks the firmware whether this is Google's, and a container has none: the one change to the distribution.
    await run("sed", [
      "-i",
      's|dmi.read_dmi_data("system-product-name") or "N/A"|"Google Compute Engine"|',
      join(root, "usr/lib/python3/dist-packages/cloudinit/sources/DataSourceGCE.py"),
    ]);
    write("etc/cloud/cloud.cfg.d/90-lab.cfg", "datasource_list: [GCE]\n");
    write("etc/machine-id", "");
    write("etc/apt/apt.conf.d/90-lab", 'Acquire::Languages "none";\n');
    // Google's images have this name here too: before the resolver is up, cloud-init has nothing else.
    write("etc/hosts", `127.0.0.1 localhost\n::1 localhost\n${METADATA_ADDRESS} metadata.google.internal metadata\n`);
    write("etc/systemd/networkd.conf.d/90-lab.conf", "[DHCPv4]\nUseDomains=yes\n");
    write("etc/systemd/resolved.conf.d/90-lab.conf", "[Resolve]\nLLMNR=no\nMulticastDNS=no\n");
    write("etc/systemd/system/lab-mount-disks.service", MOUNT_DISKS);
    write("usr/local/share/ca-certificates/lab.crt", this.authority.certificate);
    await run("sh", ["-c", "rm -f etc/hostname etc/resolv.conf etc/ssh/ssh_host_*"], { cwd: root });
    symlinkSync("../run/systemd/resolve/stub-resolv.conf", join(root, "etc/resolv.conf"));
    await run("chroot", [root, "update-ca-certificates"]);
    await run("systemctl", [`--root=${root}`, "--quiet", "enable", "systemd-networkd", "lab-mount-disks.service"]);
    await run("systemctl", [`--root=${root}`, "--quiet", "mask", ...MASKED]);
  }

  private async docker(work: string): Promise<void> {
    const folder = (name: string) => {
      mkdirSync(join(work, name), { recursive: true });
      return join(work, name);
    };
    const root = folder("root");
    const layers = `lowerdir=${join(work, "plain")},upperdir=${folder("worker")},workdir=${folder("work")}`;
    await run("mount", ["-t", "overlay", "overlay", "-o", layers, root]);
    try {
      const resolver = join(root, "run/systemd/resolve/stub-resolv.conf");
      mkdirSync(dirname(resolver), { recursive: true });
      copyFileSync("/etc/resolv.conf", resolver);
      // So that no service starts in here.
      writeFileSync(join(root, "usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n", { mode: 0o755 });
      const install = "apt-get -qq -y -o Dir::Cache::archives=/packages --no-install-recommends install";
      const script = `
        mkdir -p /packages/partial
        apt-get -qq update
        ${install} --download-only ${HOST_PACKAGES.join(" ")}
        ${install} ${WORKER_PACKAGES.join(" ")}
        # docker-machine expects it where Docker's own packages have it.
        ln -s ../sbin/dockerd /usr/bin/dockerd
        rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d /run/systemd`;
      await run("chroot", [root, "bash", "-ec", script], {
        env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", DEBIAN_FRONTEND: "noninteractive" },
      });
    } finally {
      await run("umount", [root]);
    }
    renameSync(join(work, "worker/packages"), join(work, "packages"));
  }
}

/** The mirror of the distribution that this machine itself uses. */
async function packageMirror(): Promise<string> {
  const targets = await run("apt-get", [
    "indextargets",
    "--format",
    "$(REPO_URI)",
    "Created-By: Packages",
    "Origin: Debian",
  ]);
  const mirror = targets.split("\n").find((uri) => uri.endsWith("/debian/"));
  if (mirror === undefined) {
    throw new Error("apt on this machine has no mirror of Debian: the lab's VMs are made from it");
  }
  return mirror;
}
