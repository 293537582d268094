import { existsSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";

/** The programs that the lab runs but does not make, each from the path in its variable or else from PATH. */
const VARIABLES = {
  terraform: "LAB_TERRAFORM",
  "gitlab-runner": "LAB_GITLAB_RUNNER",
  "docker-machine": "LAB_DOCKER_MACHINE",
  registry: "LAB_REGISTRY",
  crane: "LAB_CRANE",
  versitygw: "LAB_VERSITYGW",
} as const;

export type Program = keyof typeof VARIABLES;

/** Path of the program. */
export function program(name: Program): string {
  const given = process.env[VARIABLES[name]];
  const found = given || which(name);
  if (!found || !existsSync(found)) {
    throw new Error(`The lab needs ${name}: put it on PATH, or its path into ${VARIABLES[name]}.`);
  }
  return found;
}

/** The runner's helper image for workers, which GitLab's package gitlab-runner-helper-images has. */
export function helperImage(): string {
  const name = "prebuilt-alpine-x86_64.tar.xz";
  const beside = join(dirname(program("gitlab-runner")), "..", "lib/gitlab-runner/helper-images", name);
  const path = process.env["LAB_HELPER_IMAGE"] || beside;
  if (!existsSync(path)) {
    throw new Error(`The lab needs GitLab Runner's helper image: put the path of ${name} into LAB_HELPER_IMAGE.`);
  }
  return path;
}

const TOOLS: { readonly [tool: string]: string } = {
  mmdebstrap: "mmdebstrap",
  "systemd-nspawn": "systemd-container",
  dnsmasq: "dnsmasq-base",
  ip: "iproute2",
  openssl: "openssl",
  gpg: "gpg",
  git: "git",
  "apt-ftparchive": "apt-utils",
  "dpkg-deb": "dpkg",
  losetup: "mount",
  unshare: "util-linux",
};

/** What this machine lacks, as a sentence that says what to do. */
export function missing(): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0) {
    return "The lab makes system containers: it needs Linux, and root.";
  }
  if (!existsSync("/dev/loop-control")) {
    return "The lab needs loop devices, and this machine has none.";
  }
  const packages = Object.entries(TOOLS).flatMap(([tool, name]) => (which(tool) === undefined ? [name] : []));
  return packages.length === 0
    ? undefined
    : `The lab needs some programs: apt-get install --no-install-recommends ${packages.join(" ")}`;
}

function which(name: string): string | undefined {
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}
