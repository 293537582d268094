import { createHash, randomBytes } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { Authority } from "./authority";
import { BaseImages } from "./base-images";
import { run, until } from "./commands";
import { ProcessGroup } from "./process-group";
import { program } from "./programs";
import { CACHE, DOCKER_HUB_PORT } from "./settings";

interface ImageConfig {
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
  readonly environment?: readonly string[];
  readonly ports?: readonly string[];
}

/** What a nested Docker daemon is made of. */
const DOCKER_PROGRAMS = [
  ...["dockerd", "docker", "docker-proxy", "docker-init", "containerd", "containerd-shim-runc-v2", "runc", "iptables"],
  ...["ip6tables", "modprobe", "git", "ip", "mount", "ps", "xz"],
];

const REGISTRY_CONFIG = `version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: ":5000"}
`;

/** The images of Docker Hub that the stack and the jobs use, as small as their work here allows, in a registry's storage. */
export class ContainerImages {
  /** Size of what a job image has to pull. */
  static readonly megabytes = 60;

  readonly store: string;

  constructor(
    private readonly authority: Authority,
    private readonly images: BaseImages,
  ) {
    const recipe = createHash("sha256")
      .update(readFileSync(__filename))
      .update(authority.certificate)
      .update(images.packages);
    for (const file of [program("registry"), program("versitygw")]) {
      recipe.update(`${file} ${statSync(file).size} ${statSync(file).mtimeMs}`);
    }
    this.store = join(CACHE, "docker-hub", recipe.digest("hex").slice(0, 12));
  }

  /** `name:tag@digest`, as the product pins its images. */
  pinned(name: string): string {
    return `${name}@${readFileSync(join(this.store, `${name.replace(/\W/g, "-")}.digest`), "utf8").trim()}`;
  }

  /** Has to run in the lab's network: it needs a port to itself. */
  async prepare(): Promise<void> {
    if (existsSync(this.store)) {
      return;
    }
    rmSync(dirname(this.store), { recursive: true, force: true });
    const partial = `${this.store}.partial`;
    const work = mkdtempSync("/dev/shm/lab-images-");
    mkdirSync(partial, { recursive: true });
    const registry = startRegistry(partial, "images");
    try {
      await this.push(partial, work);
      renameSync(partial, this.store);
    } finally {
      await registry.kill();
      rmSync(work, { recursive: true, force: true });
    }
  }

  private async push(store: string, work: string): Promise<void> {
    await until("the registry", 10, async () => (await fetch(`http://127.0.0.1:${DOCKER_HUB_PORT}/v2/`)).ok);
    const image = async (name: string, layers: readonly string[], config: ImageConfig = {}) => {
      const digest = await pushImage(name, layers, config);
      writeFileSync(join(store, `${name.replace(/\W/g, "-")}.digest`), digest);
    };
    const layer = async (name: string, fill: (root: string) => void) => {
      const root = join(work, name);
      mkdirSync(root);
      fill(root);
      await run("tar", ["--owner=0", "--group=0", "-C", root, "-cf", `${root}.tar`, "."]);
      return `${root}.tar`;
    };
    const put = (root: string, path: string, file: string) => {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      copyFileSync(file, join(root, path));
    };
    const plain = this.images.host[0];
    const busybox = join(plain, "usr/bin/busybox");
    const applets = (await run(busybox, ["--list"])).split("\n").filter((name) => name && name !== "busybox");
    const tools = await layer("tools", (root) => {
      put(root, "bin/busybox", busybox);
      applets.forEach((name) => symlinkSync("busybox", join(root, "bin", name)));
      ["tmp", "root", "run", "etc/ssl/certs", "var/lib/docker"].forEach((name) =>
        mkdirSync(join(root, name), { recursive: true }),
      );
      writeFileSync(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
      writeFileSync(join(root, "etc/group"), "root:x:0:\n");
      put(root, "etc/ssl/certs/ca-certificates.crt", this.authority.certificateFile);
    });
    const path = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];

    await image("library/alpine:latest", [tools], { command: ["sh"], environment: path });
    await image("library/hello-world:latest", [tools], { command: ["echo", "Hello from Docker!"], environment: path });
    const libraries = await layer("libraries", (root) => {
      mkdirSync(join(root, "opt"));
      writeFileSync(join(root, "opt/libraries"), randomBytes(ContainerImages.megabytes << 20));
    });
    await image("library/maven:latest", [tools, libraries], { command: ["sh"], environment: path });
    const database = "while :; do echo ready for connections | nc -l -p 3306; done";
    await image("library/mysql:latest", [tools], {
      entrypoint: ["sh", "-c", database],
      environment: path,
      ports: ["3306/tcp"],
    });
    const docker = await this.dockerLayer(work);
    const daemon =
      "mount -t tmpfs none /run && mount -t tmpfs none /var/lib/docker && exec dockerd --host=tcp://0.0.0.0:2375 --host=unix:///run/docker.sock --tls=false";
    await image("library/docker:latest", [tools, docker], { command: ["sh"], environment: path });
    await image("library/docker:dind", [tools, docker], {
      command: ["sh", "-c", daemon],
      environment: path,
      ports: ["2375/tcp"],
    });
    const registry = await layer("registry", (root) => {
      put(root, "bin/registry", program("registry"));
      mkdirSync(join(root, "etc/distribution"), { recursive: true });
      writeFileSync(join(root, "etc/distribution/config.yml"), REGISTRY_CONFIG);
    });
    const serve = ["serve", "/etc/distribution/config.yml"];
    await image("library/registry:3.1.1", [tools, registry], { entrypoint: ["/bin/registry"], command: serve });
    const gateway = await layer("gateway", (root) => put(root, "bin/versitygw", program("versitygw")));
    await image("versity/versitygw:v1.8.0", [tools, gateway], { entrypoint: ["/bin/versitygw"] });
  }

  /** Docker's programs with the libraries that they are linked to, from the workers' root file system. */
  private async dockerLayer(work: string): Promise<string> {
    const root = join(work, "worker");
    mkdirSync(root);
    await run("mount", ["-t", "overlay", "overlay", "-o", `lowerdir=${this.images.worker.join(":")}`, root]);
    try {
      // In there, where absolute links lead to the right place.
      const pack = `
        for name in ${DOCKER_PROGRAMS.join(" ")}; do
          command -v $name
          ldd $(command -v $name) 2>/dev/null | grep -o '/[^ ]*'
        done | sort -u | tar -C / --dereference -c -T - usr/lib/x86_64-linux-gnu/xtables 2>/dev/null`;
      await run("sh", ["-c", 'chroot "$1" bash -c "$2" >"$3"', "sh", root, pack, join(work, "docker.tar")]);
    } finally {
      await run("umount", [root]);
    }
    return join(work, "docker.tar");
  }
}

/** A registry on loopback, without TLS. */
export function startRegistry(store: string, name: string): ProcessGroup {
  const config = join(store, "registry.yml");
  writeFileSync(
    config,
    `version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: ${store}}}
http: {addr: "127.0.0.1:${DOCKER_HUB_PORT}"}
`,
  );
  const group = new ProcessGroup(name);
  const env = { ...process.env, OTEL_TRACES_EXPORTER: "none" };
  group.spawn(program("registry"), ["serve", config], { stdio: "ignore", env });
  return group;
}

/** Digest of the image that was pushed. */
async function pushImage(name: string, layers: readonly string[], config: ImageConfig): Promise<string> {
  const target = `127.0.0.1:${DOCKER_HUB_PORT}/${name}`;
  const crane = (...args: string[]) => run(program("crane"), ["--insecure", ...args]);
  const list = (flag: string, values: readonly string[] = []) => values.flatMap((value) => [flag, value]);
  await crane("append", "--oci-empty-base", ...list("--new_layer", layers), "--new_tag", target);
  await crane(
    ...["mutate", target, "--set-platform", "linux/amd64", "--tag", target],
    ...(config.entrypoint ? ["--entrypoint", config.entrypoint.join(",")] : []),
    ...(config.command ? ["--cmd", config.command.join(",")] : []),
    ...list("--env", config.environment),
    ...(config.ports ? ["--exposed-ports", config.ports.join(",")] : []),
  );
  return crane("digest", target);
}
