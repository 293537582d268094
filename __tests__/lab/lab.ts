import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { AppSettings } from "./app";
import { Authority } from "./authority";
import { BaseImages } from "./base-images";
import { ContainerImages, startRegistry } from "./container-images";
import { PackageServer } from "./file-server";
import { GitLab } from "./gitlab";
import { ComputeEngine } from "./google/compute-engine";
import { Iam, OPERATOR } from "./google/iam";
import { MetadataServer } from "./google/metadata-server";
import { SecretManager } from "./google/secret-manager";
import { GoogleApis } from "./google/server";
import { Network } from "./network";
import { Packages } from "./packages";
import { ProcessGroup } from "./process-group";
import * as settings from "./settings";
import { SlowLine } from "./slow-line";
import { Deployment, TerraformEnvironment, type Variables } from "./terraform";
import { Disk } from "./vm";

/** Id of the secret with the runner's token. */
export const TOKEN_SECRET = "runner-token";

/** Names that the stack gives by default. */
export const RUNNER_HOST = "gitlab-runner-manager";
export const CACHE_HOST = "gitlab-runner-cache";
export const BUILD_CACHE_KEYS_SECRET = "gitlab-runner-cache-keys";

/** The laboratory: everything around the stack that it needs and does not make. */
export class Lab {
  runnerToken = `glrt-${randomBytes(15).toString("base64url").slice(0, 20)}`;
  readonly iam = new Iam();
  readonly secrets = new SecretManager(this.iam);
  readonly gitlab = new GitLab(this.runnerToken);
  /** 40 ms there and back, 100 Mbit/s. */
  readonly hubLine = new SlowLine(40, 100);
  readonly compute: ComputeEngine;
  readonly google: GoogleApis;
  readonly metadataServer: MetadataServer;
  readonly packageServer: PackageServer;

  private readonly authority = new Authority();
  private readonly images: BaseImages;
  private readonly packages: Packages;
  private readonly containerImages: ContainerImages;
  private environment!: TerraformEnvironment;

  constructor() {
    this.images = new BaseImages(this.authority);
    this.packages = new Packages(this.authority, this.images);
    this.containerImages = new ContainerImages(this.authority, this.images);
    this.compute = new ComputeEngine(this.iam, new Network(this.images.host[0]), {
      "ubuntu-os-cloud/ubuntu-2404-lts-amd64": this.images.host,
      "cos-cloud/cos-stable": this.images.worker,
    });
    this.google = new GoogleApis(this.iam, this.compute, this.secrets);
    this.metadataServer = new MetadataServer(this.compute, this.iam);
    this.packageServer = new PackageServer(this.packages.folder);
  }

  /** Makes what can be kept for later runs. Has to run where this machine's package mirrors are in reach. */
  static async prepare(say: (text: string) => void): Promise<void> {
    const authority = new Authority();
    await authority.prepare();
    const images = new BaseImages(authority);
    say("Base images, packages and cdktf-cli: made once, some minutes; kept in the cache");
    await Promise.all([images.prepare(), Deployment.prepare()]);
    await new Packages(authority, images).prepare();
  }

  /** Has to run in the lab's network. */
  async start(): Promise<void> {
    await this.containerImages.prepare();
    const tls = await this.serverCertificate();
    startRegistry(this.containerImages.store, "docker-hub");
    await Promise.all([
      this.metadataServer.listen(),
      this.google.listen(tls),
      this.gitlab.listen(tls),
      this.packageServer.listen(tls),
      this.hubLine.listen(settings.ADDRESSES.dockerHub, tls, settings.DOCKER_HUB_PORT),
    ]);
    this.environment = new TerraformEnvironment(this.iam.tokenFor(OPERATOR), this.authority.certificateFile);
    this.startProviderBackend();
  }

  /** The version of GitLab Runner that deployments have. */
  runnerVersion(): Promise<string> {
    return this.packages.runnerVersion();
  }

  /** A version of GitLab Runner to upgrade to. */
  laterRunnerVersion(): Promise<string> {
    return this.packages.laterRunnerVersion();
  }

  async deployment(name: string, variables: Variables, app: Partial<AppSettings> = {}): Promise<Deployment> {
    const given = {
      project: settings.PROJECT,
      region: settings.REGION,
      zone: settings.ZONE,
      gitlab_url: `https://${settings.GITLAB_HOST}`,
      runner_token_secret: TOKEN_SECRET,
      gitlab_runner_version: await this.packages.runnerVersion(),
      ...variables,
    };
    const sources = {
      dockerUrl: Packages.docker,
      dockerPackages: Packages.dockerPackages,
      gitlabRunnerUrl: Packages.gitlabRunner,
      keyUrl: Packages.key,
      keyFingerprint: await this.authority.repositoryKeyFingerprint(),
      dockerMachineUrl: Packages.dockerMachine,
      registryImage: this.containerImages.pinned("library/registry:3.1.1"),
      buildCacheImage: this.containerImages.pinned("versity/versitygw:v1.8.0"),
      ...app,
    };
    return new Deployment(name, sources, given, this.environment);
  }

  /** Makes the network; ends whatever is left of another lab before. */
  static async create(): Promise<void> {
    await Lab.down();
    rmSync(settings.LOGS, { recursive: true, force: true });
    mkdirSync(settings.LOGS, { recursive: true });
    mkdirSync(settings.STATE, { recursive: true });
    await Network.create();
  }

  /** Ends and removes everything, also of a lab that was killed: it goes by names alone. */
  static async down(): Promise<void> {
    await Promise.all(ProcessGroup.all().map((group) => group.kill()));
    ProcessGroup.removeAll();
    await Network.remove();
    await Disk.detachAll();
    rmSync(settings.STATE, { recursive: true, force: true });
  }

  /** What `down` should have removed. */
  static async leftovers(): Promise<string[]> {
    const mounts = readdirSync("/proc").filter((name) => /^\d+$/.test(name) && mountsOf(name).includes(settings.STATE));
    return [
      ...ProcessGroup.all().map(({ folder }) => folder),
      ...Network.all(),
      ...(await Disk.all()),
      ...mounts.map((id) => `a mount of process ${id}`),
      ...(existsSync(settings.STATE) ? [settings.STATE] : []),
    ];
  }

  private async serverCertificate(): Promise<{ key: Buffer; cert: Buffer }> {
    const names = ["*.googleapis.com", settings.GITLAB_HOST, settings.PACKAGES_HOST, settings.DOCKER_HUB_HOST];
    await this.authority.certify(settings.STATE, names);
    const [key, cert] = ["server.key", "server.pem"].map((name) => readFileSync(join(settings.STATE, name)));
    return { key, cert };
  }

  /** A provider may need a program beside it, in the lab's network: whoever set its command knows which. */
  private startProviderBackend(): void {
    const command = process.env["LAB_PROVIDER_BACKEND"];
    if (command) {
      const log = openSync(join(settings.LOGS, "provider-backend.log"), "w");
      new ProcessGroup("provider-backend").spawn("sh", ["-c", command], {
        stdio: ["ignore", log, log],
        env: this.environment.variables,
      });
    }
  }
}

function mountsOf(process: string): string {
  try {
    return readFileSync(`/proc/${process}/mountinfo`, "utf8");
  } catch {
    return ""; // it ended just now
  }
}
