import { ComputeAddress } from "@cdktf/provider-google/lib/compute-address";
import { ComputeDisk } from "@cdktf/provider-google/lib/compute-disk";
import { ComputeFirewall } from "@cdktf/provider-google/lib/compute-firewall";
import { SecretManagerSecret } from "@cdktf/provider-google/lib/secret-manager-secret";
import { SecretManagerSecretIamMember } from "@cdktf/provider-google/lib/secret-manager-secret-iam-member";
import { Lazy, Token } from "cdktf";
import { Construct } from "constructs";
import { BuildCache } from "./build-cache";
import { HostVm, HostVmProps } from "./host-vm";
import { AptRepository, DOCKER_REPOSITORY, repositorySettings } from "./package-sources";
import { regionOf } from "./network-attachment";
import { json, numberText, renderTemplate, terraformString } from "./rendering";
import { bucketName, check, cidr, diskType, duration, httpUrl, integer, port, secretId } from "./rules";
import { relativePath } from "./self-link";
import { checkSecretReference, SecretReference, secretUri } from "./secret-reference";
import { DOCKER_PACKAGES, IMAGES } from "./versions";

/** The program that serves the build cache by the S3 protocol. */
export enum BuildCacheServer {
  /** https://github.com/versity/versitygw: maintained, and an object is a file on the disk. */
  VERSITYGW = "versitygw",
  /** https://github.com/minio/minio: unmaintained; for those who have MinIO's data on the disk already. */
  MINIO = "minio",
}

export interface CacheHostProps extends HostVmProps {
  /**
   * TCP port of the registry mirror.
   *
   * @default 6000
   */
  readonly registryMirrorPort?: number;
  /**
   * The registry that is mirrored. Docker uses a mirror for Docker Hub only.
   *
   * @default "https://registry-1.docker.io"
   */
  readonly registryUpstream?: string;
  /**
   * How long the mirror keeps a layer from the time on at which it fetched it, as a Go duration. The next pull fetches it
   * again; `0s` keeps it until the disk is full.
   *
   * @default "168h"
   */
  readonly registryTtl?: string;
  /**
   * Account at Docker Hub, against its limit of 100 pulls in 6 hours for all workers together. What it may read, everybody
   * who reaches the mirror may read.
   *
   * @default - none
   */
  readonly dockerHubUsername?: string;
  /**
   * Secret with that account's access token. Needed with `dockerHubUsername`.
   *
   * @default - none
   */
  readonly dockerHubToken?: SecretReference;
  /**
   * TCP port of the build cache.
   *
   * @default 9005
   */
  readonly buildCachePort?: number;
  /**
   * Name of the build cache's bucket: the folder below `/export`. With another name the old folder stays until somebody deletes it.
   *
   * @default "runner"
   */
  readonly bucket?: string;
  /**
   * The program that serves the build cache.
   *
   * @default BuildCacheServer.VERSITYGW
   */
  readonly buildCacheServer?: BuildCacheServer;
  /**
   * Days after which a build cache that was not written again is deleted, at least 1.
   *
   * @default 14
   */
  readonly maxAgeDays?: number;
  /**
   * Fill level of the data disk in percent from which on the oldest build caches and mirrored layers are deleted, 50 to 95.
   *
   * @default 85
   */
  readonly highWaterPercent?: number;
  /**
   * Size of the data disk in GB, at least 10. It may grow in place. A smaller one is another disk, and empty: it replaces the VM
   * and loses all caches, as does another `cacheDiskType`.
   *
   * @default 100
   */
  readonly cacheDiskGb?: number;
  /**
   * Type of the data disk.
   *
   * @default "pd-balanced"
   */
  readonly cacheDiskType?: string;
  /**
   * IPv4 ranges that may use the mirror and the build cache besides the runners that are attached to them.
   *
   * @default - none
   */
  readonly clientRanges?: string[];
  /**
   * Id of the secret in which the host keeps the build cache's keys, which it makes itself.
   *
   * @default - the name of the host, with "-keys"
   */
  readonly keysSecretId?: string;
  /**
   * Where Docker is installed from.
   *
   * @default - Docker's own repository (`DOCKER_REPOSITORY`)
   */
  readonly dockerRepository?: AptRepository;
  /**
   * The packages that are installed from there, as apt takes them: `name=version`, with `*` for any part.
   *
   * @default - `DOCKER_PACKAGES`
   */
  readonly dockerPackages?: string[];
  /**
   * Image of the registry mirror.
   *
   * @default - `IMAGES.registry`
   */
  readonly registryImage?: string;
  /**
   * Image of the build cache's server.
   *
   * @default - `IMAGES` of the `buildCacheServer`
   */
  readonly buildCacheImage?: string;
}

/** What the host's programs read live, in the metadata attribute `cache-settings`. */
interface CacheSettings {
  readonly registryMirrorPort: number;
  readonly buildCachePort: number;
  readonly bucket: string;
  readonly buildCacheServer: BuildCacheServer;
  readonly maxAgeDays: number;
  readonly highWaterPercent: number;
}

/** What stands for the S3 keys until the host puts in what its secret has. */
interface Keys {
  readonly access_key: string;
  readonly secret_key: string;
}

/** Where the data disk shows up on the host: /dev/disk/by-id/google-cache. */
const DATA_DISK = "cache";

/** Port of the registry mirror's metrics. */
const REGISTRY_METRICS_PORT = 9253;

/**
 * A VM next door that keeps what builds would download again: a pull-through mirror of Docker Hub, and an S3 server for the
 * runner's build caches. Both keep their data on a disk that outlives the VM.
 */
export class CacheHost extends HostVm {
  /** URL for `engine-registry-mirror`. */
  public readonly registryMirrorUrl: string;
  /** What a runner has to know to use the build cache. */
  public readonly buildCache: BuildCache;
  /** `host:port` of the build cache. */
  public readonly buildCacheEndpoint: string;
  /** Fill level of the data disk in percent from which on the host makes room on it. */
  public readonly highWaterPercent: number;

  private readonly clients = new Set<string>();
  private readonly clientRanges: string[];
  private readonly clientPorts: string[];

  constructor(scope: Construct, id: string, props: CacheHostProps) {
    super(scope, id, props);
    const settings = {
      registryMirrorPort: props.registryMirrorPort ?? 6000,
      buildCachePort: props.buildCachePort ?? 9005,
      bucket: props.bucket ?? "runner",
      buildCacheServer: props.buildCacheServer ?? BuildCacheServer.VERSITYGW,
      maxAgeDays: props.maxAgeDays ?? 14,
      highWaterPercent: props.highWaterPercent ?? 85,
    };
    checkProps(props, settings);
    const { project, zone } = this;
    const credentials = this.createKeys(props);
    const keys = {
      access_key: secretUri(credentials, "access_key"),
      secret_key: secretUri(credentials, "secret_key"),
    };
    this.readDockerHubToken(props);
    const disk = new ComputeDisk(this, "Disk", {
      project,
      zone,
      name: `${this.name}-data`,
      size: props.cacheDiskGb ?? 100,
      type: props.cacheDiskType ?? "pd-balanced",
      labels: this.labels,
    });
    // The same address after the VM was replaced: running workers have it in their configuration.
    const { address } = new ComputeAddress(this, "Address", {
      project,
      region: regionOf(zone),
      name: this.name,
      addressType: "INTERNAL",
      subnetwork: this.network.subnetwork,
      labels: this.labels,
    });
    this.createInstance({
      template: "cache-host.yaml.hbs",
      settings: {
        docker: repositorySettings(
          "dockerRepository",
          props.dockerRepository ?? DOCKER_REPOSITORY,
          props.dockerPackages ?? DOCKER_PACKAGES,
        ),
        buildCacheKeysSecret: `projects/${project}/secrets/${credentials.secretId}`,
      },
      attributes: {
        "compose-yaml": terraformString(composeFile(props, settings, keys, this.metricsPorts)),
        "build-cache-keys": terraformString(json(keys)),
        "cache-settings": terraformString(json(settings)),
      },
      // Another disk is an empty one, which only a new VM formats. An address cannot move as long as its VM is there.
      replacedWith: { disk: disk.diskId, subnetwork: relativePath(this.network.subnetwork) },
      attachedDisk: { source: disk.selfLink, deviceName: DATA_DISK },
      networkIp: address,
      metricsPort: String(REGISTRY_METRICS_PORT),
    });
    this.clientRanges = props.clientRanges ?? [];
    this.clientPorts = [settings.registryMirrorPort, settings.buildCachePort].map(numberText);
    this.letClientsIn(0);

    this.highWaterPercent = settings.highWaterPercent;
    this.registryMirrorUrl = `http://${address}:${numberText(settings.registryMirrorPort)}`;
    this.buildCacheEndpoint = `${address}:${numberText(settings.buildCachePort)}`;
    this.buildCache = {
      credentials,
      config: {
        type: "s3",
        shared: true,
        s3: {
          serverAddress: this.buildCacheEndpoint,
          accessKey: keys.access_key,
          secretKey: keys.secret_key,
          bucketName: settings.bucket,
          // Else the runner asks the server first.
          bucketLocation: "us-east-1",
          authenticationType: "access-key",
          insecure: true,
          pathStyle: true,
        },
      },
    };
  }

  /**
   * Docker's form of the port. At one address, the internal one, a container would not start on a boot that is faster than the
   * network.
   */
  private get metricsPorts(): string {
    return `${this.servesMetrics ? "" : "127.0.0.1:"}${REGISTRY_METRICS_PORT}:5001`;
  }

  /** Lets what acts as this service account use the mirror and the build cache. A runner registration does it by itself. */
  public allowFrom(serviceAccountEmail: string): void {
    this.clients.add(serviceAccountEmail);
    const rule = Math.ceil(this.clients.size / CLIENTS_PER_RULE) - 1;
    if (rule > 0 && this.node.tryFindChild(clientsId(rule)) === undefined) {
      this.letClientsIn(rule);
    }
  }

  /** An empty secret; the host adds the keys. */
  private createKeys(props: CacheHostProps): SecretReference {
    const { project, member } = this;
    const { secretId } = new SecretManagerSecret(this, "Keys", {
      project,
      secretId: props.keysSecretId ?? `${this.name}-keys`,
      replication: { auto: {} },
      labels: this.labels,
    });
    for (const [id, role] of [
      ["ReadKeys", "roles/secretmanager.secretAccessor"],
      ["AddKeys", "roles/secretmanager.secretVersionAdder"],
    ]) {
      this.neededAtBoot(new SecretManagerSecretIamMember(this, id, { project, secretId, role, member }));
    }
    return { project, secretId };
  }

  private readDockerHubToken({ dockerHubToken }: CacheHostProps): void {
    if (dockerHubToken === undefined) {
      return;
    }
    const { project, secretId } = dockerHubToken;
    const role = "roles/secretmanager.secretAccessor";
    this.neededAtBoot(
      new SecretManagerSecretIamMember(this, "ReadDockerHubToken", { project, secretId, role, member: this.member }),
    );
  }

  private letClientsIn(rule: number): void {
    const first = rule * CLIENTS_PER_RULE;
    new ComputeFirewall(this, clientsId(rule), {
      project: this.network.project,
      name: `${this.name}-client${rule === 0 ? "s" : rule + 1}`,
      description: `Registry mirror and build cache of ${this.name}`,
      network: this.network.network,
      sourceServiceAccounts: Lazy.listValue(
        { produce: () => [...this.clients].slice(first, first + CLIENTS_PER_RULE) },
        { omitEmpty: true },
      ),
      sourceRanges:
        rule === 0
          ? Lazy.listValue(
              { produce: () => (this.clients.size > 0 ? this.clientRanges : this.orItself(this.clientRanges)) },
              { omitEmpty: true },
            )
          : undefined,
      targetServiceAccounts: [this.serviceAccountEmail],
      allow: [{ protocol: "tcp", ports: this.clientPorts }],
    });
  }
}

/** https://cloud.google.com/firewall/docs/quotas: source service accounts in one rule. */
const CLIENTS_PER_RULE = 10;
const clientsId = (rule: number) => `Clients${rule === 0 ? "" : rule + 1}`;

function checkProps(props: CacheHostProps, { registryMirrorPort, buildCachePort, bucket }: CacheSettings): void {
  for (const [property, value] of Object.entries({ registryMirrorPort, buildCachePort })) {
    check(port, property, value);
    if (value === 22) {
      throw new Error(`'${property}' must not be the host's SSH port, got 22`);
    }
    if (value === REGISTRY_METRICS_PORT) {
      throw new Error(`'${property}' must not be the port of the registry mirror's metrics, got ${value}`);
    }
  }
  if (!Token.isUnresolved(buildCachePort) && registryMirrorPort === buildCachePort) {
    throw new Error(`'buildCachePort' must differ from 'registryMirrorPort', got ${buildCachePort} for both`);
  }
  check(httpUrl, "registryUpstream", props.registryUpstream);
  check(duration, "registryTtl", props.registryTtl);
  check(bucketName, "bucket", bucket);
  check(secretId, "keysSecretId", props.keysSecretId);
  check(integer(1, 3650, "days"), "maxAgeDays", props.maxAgeDays);
  check(integer(50, 95, "percent"), "highWaterPercent", props.highWaterPercent);
  check(integer(10, 65536, "GB"), "cacheDiskGb", props.cacheDiskGb);
  check(diskType, "cacheDiskType", props.cacheDiskType);
  if (!Token.isUnresolved(props.clientRanges)) {
    props.clientRanges?.forEach((range) => check(cidr, "clientRanges", range));
  }
  const servers = Object.values(BuildCacheServer);
  if (props.buildCacheServer !== undefined && !servers.includes(props.buildCacheServer)) {
    const got = Token.isUnresolved(props.buildCacheServer)
      ? "a Terraform value"
      : JSON.stringify(props.buildCacheServer);
    throw new Error(`'buildCacheServer' must be one of ${servers.join(", ")}, got ${got}`);
  }
  const { dockerHubUsername, dockerHubToken } = props;
  if ((dockerHubUsername === undefined) !== (dockerHubToken === undefined)) {
    const missing = dockerHubUsername === undefined ? "dockerHubUsername" : "dockerHubToken";
    throw new Error(`'${missing}' must be given too: Docker Hub wants a user name and an access token`);
  }
  if (dockerHubToken !== undefined) {
    checkSecretReference("dockerHubToken", dockerHubToken);
  }
}

function composeFile(props: CacheHostProps, settings: CacheSettings, keys: Keys, metricsPorts: string): string {
  const server = settings.buildCacheServer;
  return renderTemplate("compose.yaml.hbs", {
    registryImage: props.registryImage ?? IMAGES.registry,
    registryPorts: `${numberText(settings.registryMirrorPort)}:5000`,
    registryMetricsPorts: metricsPorts,
    registryUpstream: props.registryUpstream ?? "https://registry-1.docker.io",
    registryTtl: props.registryTtl ?? "168h",
    dockerHub: props.dockerHubToken && {
      username: props.dockerHubUsername,
      password: secretUri(props.dockerHubToken),
    },
    buildCacheImage: props.buildCacheImage ?? IMAGES[server],
    buildCachePorts: `${numberText(settings.buildCachePort)}:9000`,
    bucket: settings.bucket,
    ...buildCacheService(server, keys),
  });
}

function buildCacheService(server: BuildCacheServer, keys: Keys): object {
  switch (server) {
    case BuildCacheServer.VERSITYGW:
      return {
        buildCacheEnvironment: undefined,
        buildCacheCommand: [
          ...["--port", ":9000", "--quiet", "--health", "/healthz"],
          // Without its cache a revoked key ends at once. The API that lists keys stays in the container.
          ...["--iam-dir", "/iam", "--iam-cache-disable", "--admin-port", "127.0.0.1:9001"],
          ...["posix", "/export"],
        ],
        buildCacheVolumes: ["/srv/cache/export:/export", "/srv/cache/iam:/iam"],
      };
    case BuildCacheServer.MINIO:
      return {
        buildCacheEnvironment: {
          MINIO_ROOT_USER: keys.access_key,
          MINIO_ROOT_PASSWORD: keys.secret_key,
          MINIO_BROWSER: "off",
        },
        buildCacheCommand: ["server", "--address", ":9000", "/export"],
        buildCacheVolumes: ["/srv/cache/export:/export"],
      };
  }
}
