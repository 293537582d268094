import { IResolvable, Token } from "cdktf";
import { toml } from "./rendering";

/**
 * The typed model of GitLab Runner's `config.toml`. Properties have GitLab's names in camelCase; what is not given is not
 * written, so that GitLab Runner's own default holds. Every value accepts a token.
 * https://docs.gitlab.com/runner/configuration/advanced-configuration/
 */

/** `true`, `false` or a token. */
export type Flag = boolean | IResolvable;

/** The global section. */
export interface GlobalConfig {
  readonly concurrent?: number;
  readonly checkInterval?: number;
  readonly logLevel?: LogLevel;
  readonly logFormat?: LogFormat;
  readonly listenAddress?: string;
  readonly shutdownTimeout?: number;
  readonly connectionMaxAge?: string;
  readonly sentryDsn?: string;
}

export type LogLevel = "debug" | "info" | "warn" | "error" | "fatal" | "panic";
export type LogFormat = "runner" | "text" | "json";
export type PullPolicy = "always" | "if-not-present" | "never";
export type Shell = "bash" | "sh" | "pwsh" | "powershell";

/** `[[runners.docker.services]]`: a service that every job gets. */
export interface DockerService {
  /** Image of the service. */
  readonly name: string;
  /** Host name by which jobs reach it, besides the one made from its image. */
  readonly alias?: string;
  readonly entrypoint?: string[];
  readonly command?: string[];
  /** Environment as `NAME=value`. */
  readonly environment?: string[];
}

/** `[runners.docker]`: how a job's containers run on a worker. */
export interface DockerConfig {
  /** Image of jobs that name none. */
  readonly image?: string;
  readonly tlsVerify?: Flag;
  readonly privileged?: Flag;
  readonly servicesPrivileged?: Flag;
  readonly pullPolicy?: PullPolicy | PullPolicy[];
  readonly allowedPullPolicies?: PullPolicy[];
  readonly allowedImages?: string[];
  readonly allowedServices?: string[];
  readonly allowedPrivilegedImages?: string[];
  readonly allowedPrivilegedServices?: string[];
  readonly allowedUsers?: string[];
  readonly helperImage?: string;
  readonly helperImageFlavor?: string;
  readonly user?: string;
  readonly groupAdd?: string[];
  readonly capAdd?: string[];
  readonly capDrop?: string[];
  readonly securityOpt?: string[];
  readonly servicesSecurityOpt?: string[];
  readonly usernsMode?: string;
  readonly runtime?: string;
  readonly disableEntrypointOverwrite?: Flag;
  readonly memory?: string;
  readonly memorySwap?: string;
  readonly memoryReservation?: string;
  readonly cpus?: string;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly cpuShares?: number;
  /** Size of /dev/shm in bytes. */
  readonly shmSize?: number;
  readonly ulimit?: { readonly [name: string]: string };
  readonly oomKillDisable?: Flag;
  readonly oomScoreAdjust?: number;
  readonly gpus?: string;
  readonly sysctls?: { readonly [name: string]: string };
  readonly serviceMemory?: string;
  readonly serviceMemorySwap?: string;
  readonly serviceMemoryReservation?: string;
  readonly serviceCpus?: string;
  readonly serviceCpuShares?: number;
  readonly serviceCpusetCpus?: string;
  readonly serviceGpus?: string;
  readonly networkMode?: string;
  readonly dns?: string[];
  readonly dnsSearch?: string[];
  readonly extraHosts?: string[];
  readonly links?: string[];
  readonly hostname?: string;
  readonly enableIpv6?: Flag;
  readonly networkMtu?: number;
  readonly volumes?: string[];
  readonly volumesFrom?: string[];
  readonly volumeDriver?: string;
  readonly volumeDriverOps?: { readonly [name: string]: string };
  readonly volumeKeep?: Flag;
  readonly disableCache?: Flag;
  readonly cacheDir?: string;
  readonly tmpfs?: { readonly [path: string]: string };
  readonly servicesTmpfs?: { readonly [path: string]: string };
  readonly devices?: string[];
  readonly deviceCgroupRules?: string[];
  readonly servicesDevices?: { readonly [image: string]: string[] };
  readonly services?: DockerService[];
  readonly servicesLimit?: number;
  readonly waitForServicesTimeout?: number;
  readonly containerLabels?: { readonly [name: string]: string };
  readonly logOptions?: { readonly [name: string]: string };
}

/** `[[runners.machine.autoscaling]]`. The last entry that matches the time holds as a whole: what it leaves out is 0. */
export interface AutoscalingConfig {
  readonly periods: string[];
  readonly timezone?: string;
  readonly idleCount?: number;
  readonly idleCountMin?: number;
  readonly idleScaleFactor?: number;
  readonly idleTime?: number;
}

/** `[runners.machine]`. */
export interface MachineConfig {
  readonly idleCount?: number;
  readonly idleScaleFactor?: number;
  readonly idleCountMin?: number;
  readonly idleTime?: number;
  readonly maxGrowthRate?: number;
  readonly maxBuilds?: number;
  readonly maxRemovalAttempts?: number;
  readonly machineDriver?: string;
  readonly machineName?: string;
  /** A list, or an expression that is one. */
  readonly machineOptions?: string[] | IResolvable;
  readonly autoscaling?: AutoscalingConfig[];
}

/** `[runners.cache.s3]`. */
export interface S3CacheConfig {
  /** `host:port`, without a scheme. */
  readonly serverAddress?: string;
  readonly accessKey?: string;
  readonly secretKey?: string;
  readonly bucketName?: string;
  readonly bucketLocation?: string;
  readonly insecure?: Flag;
  readonly authenticationType?: "access-key" | "iam";
  readonly serverSideEncryption?: "S3" | "KMS" | "DSSE-KMS";
  readonly serverSideEncryptionKeyId?: string;
  readonly dualStack?: Flag;
  readonly pathStyle?: Flag;
  readonly accelerate?: Flag;
  readonly roleArn?: string;
}

/** `[runners.cache.gcs]`. */
export interface GcsCacheConfig {
  readonly bucketName?: string;
  readonly credentialsFile?: string;
  readonly accessId?: string;
  readonly privateKey?: string;
  readonly universeDomain?: string;
}

/** `[runners.cache]`. */
export interface CacheConfig {
  readonly type?: "s3" | "gcs" | "azure";
  /** Prefix of the objects in the bucket. */
  readonly path?: string;
  /** Whether runners share caches: objects of a project are the same for all of them. */
  readonly shared?: Flag;
  /** Bytes above which a cache is not stored; 0 is no limit. */
  readonly maxUploadedArchiveSize?: number;
  readonly s3?: S3CacheConfig;
  readonly gcs?: GcsCacheConfig;
}

/** One `[[runners]]` entry. */
export interface RunnerConfig {
  readonly name?: string;
  readonly url?: string;
  readonly token?: string;
  readonly tlsCaFile?: string;
  readonly executor?: string;
  readonly limit?: number;
  readonly outputLimit?: number;
  readonly requestConcurrency?: number;
  readonly strictCheckInterval?: Flag;
  readonly unhealthyRequestsLimit?: number;
  readonly unhealthyInterval?: string;
  readonly jobStatusFinalUpdateRetryLimit?: number;
  readonly buildsDir?: string;
  readonly cacheDir?: string;
  readonly cloneUrl?: string;
  readonly environment?: string[];
  readonly preGetSourcesScript?: string;
  readonly postGetSourcesScript?: string;
  readonly preBuildScript?: string;
  readonly postBuildScript?: string;
  readonly prepareTimeout?: string;
  readonly getSourcesTimeout?: string;
  readonly debugTraceDisabled?: Flag;
  readonly safeDirectoryCheckout?: Flag;
  readonly cleanGitConfig?: Flag;
  readonly shell?: Shell;
  readonly featureFlags?: { readonly [flag: string]: Flag };
  readonly docker?: DockerConfig;
  readonly machine?: MachineConfig;
  readonly cache?: CacheConfig;
}

/** A table of config.toml with GitLab's own keys. */
export interface TomlTable {
  readonly [key: string]: unknown;
}

/** The text of a config.toml; tokens are expressions in it. */
export function renderConfigToml(global: TomlTable, runners: TomlTable[]): string {
  return toml({ ...global, runners });
}

/** The global section with GitLab's keys. */
export function globalTable(config: GlobalConfig): TomlTable {
  return rename(config, snakeCase);
}

/** A `[[runners]]` entry with GitLab's keys. */
export function runnerTable({ docker, machine, cache, ...runner }: RunnerConfig): TomlTable {
  return {
    ...rename(runner, snakeCase),
    docker: docker && {
      ...rename(docker, snakeCase),
      services: docker.services?.map((service) => rename(service, snakeCase)),
    },
    machine: machine && {
      ...rename(machine, pascalCase),
      autoscaling: machine.autoscaling?.map((period) => rename(period, pascalCase)),
    },
    cache: cache && {
      ...rename({ ...cache, s3: undefined, gcs: undefined }, pascalCase),
      s3: cache.s3 && rename(cache.s3, pascalCase),
      gcs: cache.gcs && rename(cache.gcs, pascalCase),
    },
  };
}

/** GitLab's keys that follow none of its own two customs. */
const IRREGULAR: { [property: string]: string } = {
  tlsCaFile: "tls-ca-file",
  serverSideEncryptionKeyId: "ServerSideEncryptionKeyID",
  roleArn: "RoleARN",
  accessId: "AccessID",
  autoscaling: "autoscaling",
};

const snakeCase = (property: string) => property.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const pascalCase = (property: string) => property.charAt(0).toUpperCase() + property.slice(1);

/** Renames the properties of this table only: below it are maps whose keys are the user's. */
function rename(table: object, custom: (property: string) => string): TomlTable {
  return Object.fromEntries(
    Object.entries(table)
      .filter(([, value]) => value !== undefined)
      .map(([property, value]) => [IRREGULAR[property] ?? custom(property), value]),
  );
}

/** The table with others merged into it: tables key by key, anything else replaced, `null` removed. */
export function mergeTables(table: TomlTable, overrides: TomlTable): TomlTable {
  const merged: { [key: string]: unknown } = { ...table };
  for (const [key, value] of Object.entries(overrides)) {
    if (value === null) {
      delete merged[key];
    } else {
      merged[key] = isTable(merged[key]) && isTable(value) ? mergeTables(merged[key], value) : value;
    }
  }
  return merged;
}

function isTable(value: unknown): value is TomlTable {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !Token.isUnresolved(value);
}

const EXECUTORS = [
  "custom", "docker", "docker+machine", "docker-autoscaler", "docker-windows", "instance", "kubernetes", "parallels",
  "shell", "ssh", "virtualbox",
]; // prettier-ignore
const PULL_POLICIES = ["always", "if-not-present", "never"];
const CACHE_TYPES = ["s3", "gcs", "azure"];
const SHELLS = ["bash", "sh", "cmd", "pwsh", "powershell"];

/** Throws for what `gitlab-runner lint` lets pass and the running runner, or its first job, does not. */
export function checkRunnerTable(runner: TomlTable): void {
  if (runner["executor"] === undefined) {
    throw new Error("'executor' must not be removed: GitLab Runner needs one");
  }
  oneOf("executor", runner["executor"], EXECUTORS);
  oneOf("shell", runner["shell"], SHELLS);
  const docker = asTable(runner["docker"]);
  oneOf("docker.pull_policy", docker["pull_policy"], PULL_POLICIES);
  oneOf("docker.allowed_pull_policies", docker["allowed_pull_policies"], PULL_POLICIES);
  oneOf("cache.Type", asTable(runner["cache"])["Type"], CACHE_TYPES);
  const name = asTable(runner["machine"])["MachineName"];
  if (typeof name === "string" && !Token.isUnresolved(name) && name.split("%s").length !== 2) {
    throw new Error(
      `'machine.MachineName' must contain %s once, in whose place each VM's own part comes, got ${JSON.stringify(name)}`,
    );
  }
}

/** The value if it is a table, else an empty one. */
export function asTable(value: unknown): TomlTable {
  return isTable(value) ? value : {};
}

function oneOf(key: string, value: unknown, allowed: string[]): void {
  for (const item of Array.isArray(value) && !Token.isUnresolved(value) ? value : [value]) {
    if (item !== undefined && !Token.isUnresolved(item) && !allowed.includes(item as string)) {
      throw new Error(`'${key}' must be one of ${allowed.join(", ")}, got ${JSON.stringify(item)}`);
    }
  }
}
