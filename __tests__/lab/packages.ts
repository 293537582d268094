import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { Authority } from "./authority";
import { BaseImages, SUITE } from "./base-images";
import { run } from "./commands";
import { helperImage, program } from "./programs";
import { CACHE, PACKAGES_HOST } from "./settings";

/** Docker's own packages, and those of the distribution whose files are in the lab's. */
const DOCKER = {
  "docker-ce": ["docker.io", "tini"],
  "docker-ce-cli": ["docker-cli"],
  "containerd.io": ["containerd", "runc"],
  "docker-buildx-plugin": ["docker-buildx"],
  "docker-compose-plugin": ["docker-compose"],
};
const DOCKER_VERSION = "5:26.1.5-1~debian.13~trixie";

/** As GitLab's package: the service is there, and runs, before there is a configuration; an upgrade makes it anew. */
const RUNNER_POSTINST = `#!/bin/sh
set -e
id gitlab-runner >/dev/null 2>&1 || useradd --system --shell /bin/bash --create-home gitlab-runner
mkdir -p -m 0700 /etc/gitlab-runner
gitlab-runner uninstall >/dev/null 2>&1 || :
gitlab-runner install --user=gitlab-runner --working-directory=/home/gitlab-runner
gitlab-runner start
`;

/** Signed apt repositories, with the names of the official ones in them, and docker-machine to download. */
export class Packages {
  static readonly docker = `https://${PACKAGES_HOST}/docker`;
  static readonly gitlabRunner = `https://${PACKAGES_HOST}/gitlab-runner`;
  static readonly key = `https://${PACKAGES_HOST}/key.asc`;
  static readonly dockerMachine = `https://${PACKAGES_HOST}/docker-machine`;
  static readonly dockerPackages = Object.keys(DOCKER).map((name) => `${name}=5:26.1.5-1~*`);

  readonly folder: string;

  constructor(
    private readonly authority: Authority,
    private readonly images: BaseImages,
  ) {
    const recipe = createHash("sha256");
    for (const file of [__filename, join(__dirname, "docker-machine.sh")]) {
      recipe.update(readFileSync(file));
    }
    for (const file of [program("gitlab-runner"), program("docker-machine"), helperImage()]) {
      recipe.update(`${file} ${statSync(file).size} ${statSync(file).mtimeMs}`);
    }
    recipe.update(images.packages);
    this.folder = join(CACHE, "packages", recipe.digest("hex").slice(0, 12));
  }

  /** Version of the gitlab-runner that is in it. */
  async runnerVersion(): Promise<string> {
    return /^Version: +(\d+\.\d+\.\d+)/m.exec(await run(program("gitlab-runner"), ["--version"]))![1];
  }

  /** A later version, by the name of its package; the program in it is the same. */
  async laterRunnerVersion(): Promise<string> {
    return (await this.runnerVersion()).replace(/\d+$/, (patch) => `${Number(patch) + 1}`);
  }

  async prepare(): Promise<void> {
    if (existsSync(this.folder)) {
      return;
    }
    rmSync(dirname(this.folder), { recursive: true, force: true });
    const partial = `${this.folder}.partial`;
    mkdirSync(partial, { recursive: true });
    await Promise.all([this.dockerPackages(partial), this.runnerPackages(partial), this.distribution(partial)]);
    await Promise.all([
      this.sign(join(partial, "docker"), "stable"),
      this.sign(join(partial, "gitlab-runner"), "main"),
      this.sign(join(partial, "debian"), "main"),
    ]);
    await this.dockerMachine(join(partial, "docker-machine"));
    writeFileSync(join(partial, "key.asc"), this.authority.repositoryKey);
    renameSync(partial, this.folder);
  }

  private async dockerPackages(folder: string): Promise<void> {
    const files = readdirSync(this.images.packages);
    const inside = Object.values(DOCKER).flat();
    for (const [name, sources] of Object.entries(DOCKER)) {
      const [first, ...others] = sources.map((source) => {
        const file = files.find((file) => file.startsWith(`${source}_`));
        return join(this.images.packages, file!);
      });
      const control = await run("dpkg-deb", ["--field", first, "Depends"]);
      const depends = control
        .trim()
        .split(/, /)
        .filter((depend) => !inside.includes(depend.replace(/ .*/, "")));
      await debianPackage(
        join(folder, "docker/pool"),
        { name, version: DOCKER_VERSION, depends: depends.join(", ") },
        async (root) => {
          await run("dpkg-deb", ["--raw-extract", first, root]);
          for (const other of others) {
            await run("dpkg-deb", ["--extract", other, root]);
          }
          if (name === "docker-ce") {
            // docker-machine expects it there.
            symlinkSync("../sbin/dockerd", join(root, "usr/bin/dockerd"));
          }
        },
      );
    }
  }

  private async runnerPackages(folder: string): Promise<void> {
    const pool = join(folder, "gitlab-runner/pool");
    for (const upstream of [await this.runnerVersion(), await this.laterRunnerVersion()]) {
      const version = `${upstream}-1`;
      const depends = `ca-certificates, curl, tar, gitlab-runner-helper-images (= ${version})`;
      await debianPackage(pool, { name: "gitlab-runner", version, depends, postinst: RUNNER_POSTINST }, (root) => {
        mkdirSync(join(root, "usr/bin"), { recursive: true });
        copyFileSync(program("gitlab-runner"), join(root, "usr/bin/gitlab-runner"));
        chmodSync(join(root, "usr/bin/gitlab-runner"), 0o755);
      });
      await debianPackage(pool, { name: "gitlab-runner-helper-images", version }, (root) => {
        const images = join(root, "usr/lib/gitlab-runner/helper-images");
        mkdirSync(images, { recursive: true });
        copyFileSync(helperImage(), join(images, "prebuilt-alpine-x86_64.tar.xz"));
      });
    }
  }

  private async distribution(folder: string): Promise<void> {
    mkdirSync(join(folder, "debian"), { recursive: true });
    await run("cp", ["-r", this.images.packages, join(folder, "debian/pool")]);
  }

  private async sign(folder: string, component: string): Promise<void> {
    const index = join("dists", SUITE, component, "binary-amd64");
    mkdirSync(join(folder, index), { recursive: true });
    writeFileSync(join(folder, index, "Packages"), await run("apt-ftparchive", ["packages", "pool"], { cwd: folder }));
    const fields = { Suite: SUITE, Codename: SUITE, Components: component, Architectures: "amd64", Origin: "Lab" };
    const options = Object.entries(fields).map(([field, value]) => `-oAPT::FTPArchive::Release::${field}=${value}`);
    const release = join(folder, "dists", SUITE, "Release");
    const text = await run("apt-ftparchive", [...options, "release", join("dists", SUITE)], { cwd: folder });
    writeFileSync(release, text);
    await this.authority.clearsign(release, join(dirname(release), "InRelease"));
  }

  /** Upstream's program knows less than GitLab's fork, which is what the product asks for: that goes in front of it. */
  private async dockerMachine(file: string): Promise<void> {
    const binary = readFileSync(program("docker-machine"));
    const help = await run(program("docker-machine"), ["create", "--driver", "google", "--help"]);
    const front = help.includes("google-skip-firewall-create")
      ? ""
      : readFileSync(join(__dirname, "docker-machine.sh"));
    writeFileSync(file, Buffer.concat([Buffer.from(front), binary]));
  }
}

interface Control {
  readonly name: string;
  readonly version: string;
  readonly depends?: string;
  readonly postinst?: string;
}

async function debianPackage(
  pool: string,
  control: Control,
  fill: (root: string) => void | Promise<void>,
): Promise<void> {
  const { name, version, depends, postinst } = control;
  const root = join(pool, `${name}.root`);
  mkdirSync(root, { recursive: true });
  await fill(root);
  mkdirSync(join(root, "DEBIAN"), { recursive: true });
  const fields = {
    Package: name,
    Version: version,
    Architecture: "amd64",
    Maintainer: "Lab <lab@lab.internal>",
    ...(depends && { Depends: depends }),
    Description: "Stands for the official package of this name",
  };
  const text = Object.entries(fields).map(([field, value]) => `${field}: ${value}\n`);
  writeFileSync(join(root, "DEBIAN/control"), text.join(""));
  if (postinst !== undefined) {
    writeFileSync(join(root, "DEBIAN/postinst"), postinst, { mode: 0o755 });
  }
  await run("dpkg-deb", [
    "--root-owner-group",
    "-Znone",
    "--build",
    root,
    join(pool, `${name}_${version.replace(/^\d+:/, "")}_amd64.deb`),
  ]);
  rmSync(root, { recursive: true });
}
