import { spawnSync } from "node:child_process";
import { ComputeInstance } from "@cdktf/provider-google/lib/compute-instance";
import { App, TerraformStack, TerraformVariable, Testing, Token } from "cdktf";
import { Construct } from "constructs";
import { CacheHost, DockerMachineWorkers, RunnerHost, RunnerRegistration } from "../../constructs";
import { HOSTILE, HOSTILE_LITERALS } from "./hostile-values";
import { available, describeIf, outputOf, programAvailable, temporaryFolder } from "./programs";
import { stringProperties } from "./props";
import {
  Metadata,
  parseCompose,
  parseConfigToml,
  parseSettings,
  parseUserData,
  renderMetadata,
  Table,
} from "./rendered";
import { parse } from "./terraform";

/** How a property gets a text: what is given to it, and what has to come out. */
interface Given {
  readonly given: unknown;
  readonly expected: unknown;
}

/** The forms in which a value is given. */
const FORMS = [
  "literal",
  "Terraform variable",
  "literal and variable mixed",
  "variable that is a list or map",
] as const;
type Form = (typeof FORMS)[number];

interface Host {
  readonly config: Table;
  readonly runner: Table;
  /** The second entry, of the host's own defaults and those of the cache host. */
  readonly plainRunner: Table;
  readonly settings: Table;
  readonly cacheHostSettings: Table;
  readonly cacheSettings: Table;
  readonly buildCacheKeys: Table;
  readonly compose: Table;
}

interface Row {
  /** Where it is on the host. */
  readonly at: ((host: Host, expected: unknown) => unknown)[];
  /** For a property with a rule: a literal that follows it. Only as a variable such a value can be hostile. */
  readonly valid?: unknown;
  /** What of it is there, if not the value itself. */
  readonly as?: (expected: unknown) => unknown;
  /** The library decides by its items at synth time, so the whole list or map is no variable. */
  readonly itemwise?: boolean;
}

type Get = (host: Host, expected: unknown) => unknown;

const below = (root: unknown, keys: (string | number)[]): unknown =>
  keys.reduce((value, key) => (value as Table | undefined)?.[key], root);
const within =
  (part: keyof Host) =>
  (...keys: (string | number)[]): Get =>
  (host) =>
    below(host[part], keys);
const global = within("config");
const runner = within("runner");
const plainRunner = within("plainRunner");
const settings = within("settings");
const cacheHostSettings = within("cacheHostSettings");
const cacheSettings = within("cacheSettings");
const buildCacheKeys = within("buildCacheKeys");
const service = (...keys: string[]) => within("compose")("services", ...keys);

const machineOptions: Get = ({ runner }) => below(runner, ["machine", "MachineOptions"]);
const option =
  (name: string): Get =>
  (host) =>
    (machineOptions(host, undefined) as string[])
      .filter((item) => item.startsWith(`${name}=`))
      .map((item) => item.slice(name.length + 1))[0];
/** What is between the parts of a text. */
const partOf =
  (get: Get, pattern: RegExp): Get =>
  (host, expected) =>
    pattern.exec(get(host, expected) as string)?.[1];
const listOf =
  (get: Get): Get =>
  (host, expected) =>
    (get(host, expected) as string).split(",");
/** Those members of a table that are expected in it. */
const membersOf =
  (get: Get): Get =>
  (host, expected) =>
    Object.fromEntries(Object.keys(expected as Table).map((key) => [key, (get(host, expected) as Table)[key]]));
/** The options that label a worker: the user's, and last the owner's. */
const labelOptions = (host: Host): string[] =>
  (machineOptions(host, undefined) as string[]).filter((item) => item.startsWith("google-label="));

const secret = (get: Get) => ({
  project: { at: [partOf(get, /^secret:\/\/projects\/([^]*)\/secrets\//)], valid: "other-project" },
  secretId: { at: [partOf(get, /\/secrets\/([^]*)\/versions\//)], valid: "some-secret" },
  version: { at: [partOf(get, /\/versions\/([^]*)$/)], valid: "7" },
});
const hubToken = secret(service("registry-mirror", "environment", "REGISTRY_PROXY_PASSWORD"));
const runnerToken = secret(runner("token"));

const FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567";
function repository(path: string, get: (...keys: string[]) => Get): { [path: string]: Row } {
  return {
    [`${path}.url`]: { at: [get("url")], valid: "https://mirror.example.com/apt" },
    [`${path}.keyUrl`]: { at: [get("keyUrl")], valid: "https://mirror.example.com/key" },
    [`${path}.keyFingerprint`]: { at: [get("keyFingerprint")], valid: FINGERPRINT },
    [`${path}.suite`]: { at: [get("suite")] },
    [`${path}.component`]: { at: [get("components")] },
  };
}

/** Free text of `[runners.docker]`, by property and key. */
const DOCKER = {
  image: "image",
  "allowedImages[]": "allowed_images",
  "allowedServices[]": "allowed_services",
  "allowedPrivilegedImages[]": "allowed_privileged_images",
  "allowedPrivilegedServices[]": "allowed_privileged_services",
  "allowedUsers[]": "allowed_users",
  helperImage: "helper_image",
  helperImageFlavor: "helper_image_flavor",
  user: "user",
  "groupAdd[]": "group_add",
  "capAdd[]": "cap_add",
  "capDrop[]": "cap_drop",
  "securityOpt[]": "security_opt",
  "servicesSecurityOpt[]": "services_security_opt",
  usernsMode: "userns_mode",
  runtime: "runtime",
  memory: "memory",
  memorySwap: "memory_swap",
  memoryReservation: "memory_reservation",
  cpus: "cpus",
  cpusetCpus: "cpuset_cpus",
  cpusetMems: "cpuset_mems",
  "ulimit{}": "ulimit",
  gpus: "gpus",
  "sysctls{}": "sysctls",
  serviceMemory: "service_memory",
  serviceMemorySwap: "service_memory_swap",
  serviceMemoryReservation: "service_memory_reservation",
  serviceCpus: "service_cpus",
  serviceCpusetCpus: "service_cpuset_cpus",
  serviceGpus: "service_gpus",
  networkMode: "network_mode",
  "dns[]": "dns",
  "dnsSearch[]": "dns_search",
  "extraHosts[]": "extra_hosts",
  "links[]": "links",
  hostname: "hostname",
  "volumes[]": "volumes",
  "volumesFrom[]": "volumes_from",
  volumeDriver: "volume_driver",
  "volumeDriverOps{}": "volume_driver_ops",
  cacheDir: "cache_dir",
  "tmpfs{}": "tmpfs",
  "servicesTmpfs{}": "services_tmpfs",
  "devices[]": "devices",
  "deviceCgroupRules[]": "device_cgroup_rules",
  "servicesDevices{}[]": "services_devices",
  "containerLabels{}": "container_labels",
  "logOptions{}": "log_options",
};

/** Free text elsewhere in `[[runners]]`, by property and keys. */
const RUNNER = {
  name: ["name"],
  "environment[]": ["environment"],
  buildsDir: ["builds_dir"],
  cacheDir: ["cache_dir"],
  tlsCaFile: ["tls-ca-file"],
  preGetSourcesScript: ["pre_get_sources_script"],
  postGetSourcesScript: ["post_get_sources_script"],
  preBuildScript: ["pre_build_script"],
  postBuildScript: ["post_build_script"],
  "docker.services[].name": ["docker", "services", 0, "name"],
  "docker.services[].alias": ["docker", "services", 0, "alias"],
  "docker.services[].entrypoint[]": ["docker", "services", 0, "entrypoint"],
  "docker.services[].command[]": ["docker", "services", 0, "command"],
  "docker.services[].environment[]": ["docker", "services", 0, "environment"],
  "cache.path": ["cache", "Path"],
  "cache.s3.serverAddress": ["cache", "s3", "ServerAddress"],
  "cache.s3.accessKey": ["cache", "s3", "AccessKey"],
  "cache.s3.secretKey": ["cache", "s3", "SecretKey"],
  "cache.s3.bucketName": ["cache", "s3", "BucketName"],
  "cache.s3.bucketLocation": ["cache", "s3", "BucketLocation"],
  "cache.s3.authenticationType": ["cache", "s3", "AuthenticationType"],
  "cache.s3.serverSideEncryption": ["cache", "s3", "ServerSideEncryption"],
  "cache.s3.serverSideEncryptionKeyId": ["cache", "s3", "ServerSideEncryptionKeyID"],
  "cache.s3.roleArn": ["cache", "s3", "RoleARN"],
  "cache.gcs.bucketName": ["cache", "gcs", "BucketName"],
  "cache.gcs.credentialsFile": ["cache", "gcs", "CredentialsFile"],
  "cache.gcs.accessId": ["cache", "gcs", "AccessID"],
  "cache.gcs.privateKey": ["cache", "gcs", "PrivateKey"],
  "cache.gcs.universeDomain": ["cache", "gcs", "UniverseDomain"],
};

const IMAGE = "debian-cloud/global/images/family/debian-12";

const TABLE: { readonly [property: string]: Row } = {
  "CacheHost.project": {
    at: [partOf(cacheHostSettings("buildCacheKeysSecret"), /^projects\/([^]*)\/secrets\//)],
    valid: "cache-project",
  },
  "CacheHost.keysSecretId": {
    at: [
      partOf(cacheHostSettings("buildCacheKeysSecret"), /\/secrets\/([^]*)$/),
      partOf(buildCacheKeys("secret_key"), /\/secrets\/([^]*)\/versions\/latest#secret_key$/),
      partOf(plainRunner("cache", "s3", "AccessKey"), /\/secrets\/([^]*)\/versions\/latest#access_key$/),
    ],
    valid: "cache-keys",
  },
  "CacheHost.registryUpstream": {
    at: [service("registry-mirror", "environment", "REGISTRY_PROXY_REMOTEURL")],
    valid: "https://registry.example.com",
  },
  "CacheHost.registryTtl": { at: [service("registry-mirror", "environment", "REGISTRY_PROXY_TTL")], valid: "36h" },
  "CacheHost.dockerHubUsername": { at: [service("registry-mirror", "environment", "REGISTRY_PROXY_USERNAME")] },
  "CacheHost.dockerHubToken.project": hubToken.project,
  "CacheHost.dockerHubToken.secretId": hubToken.secretId,
  "CacheHost.dockerHubToken.version": hubToken.version,
  "CacheHost.bucket": { at: [cacheSettings("bucket"), plainRunner("cache", "s3", "BucketName")], valid: "caches" },
  "CacheHost.registryImage": { at: [service("registry-mirror", "image")] },
  "CacheHost.buildCacheImage": { at: [service("build-cache", "image")] },
  ...repository("CacheHost.opsAgentRepository", (...keys) => cacheHostSettings("opsAgent", ...keys)),
  ...repository("CacheHost.dockerRepository", (...keys) => cacheHostSettings("docker", ...keys)),
  "CacheHost.dockerPackages[]": { at: [cacheHostSettings("docker", "packages")] },

  "RunnerHost.project": { at: [partOf(settings("managerIdentity"), /^([^]*)\/[^]*\//)], valid: "runner-project" },
  "RunnerHost.zone": { at: [partOf(settings("managerIdentity"), /^[^]*\/([^]*)\//)], valid: "europe-west1-b" },
  "RunnerHost.name": {
    at: [
      partOf(settings("managerIdentity"), /^[^]*\/[^]*\/([^]*)$/),
      plainRunner("name"),
      partOf((host) => labelOptions(host).at(-1), /^google-label=gitlab-runner-manager:([^]*)$/),
    ],
    valid: "manager",
  },
  "RunnerHost.logLevel": { at: [global("log_level")], valid: "warn" },
  "RunnerHost.logFormat": { at: [global("log_format")], valid: "text" },
  "RunnerHost.listenAddress": { at: [global("listen_address")], valid: "127.0.0.1:9252" },
  "RunnerHost.connectionMaxAge": { at: [global("connection_max_age")], valid: "33m" },
  "RunnerHost.sentryDsn": { at: [global("sentry_dsn")] },
  "RunnerHost.overrides{}": { at: [membersOf(global())], itemwise: true },
  "RunnerHost.gitlabRunnerVersion": {
    at: [partOf(settings("gitlabRunner", "packages", 0), /^gitlab-runner=([^]*)-1$/)],
    valid: "19.4.1",
  },
  ...repository("RunnerHost.gitlabRunnerRepository", (...keys) => settings("gitlabRunner", ...keys)),
  ...repository("RunnerHost.opsAgentRepository", (...keys) => settings("opsAgent", ...keys)),
  ...repository("RunnerHost.dockerRepository", (...keys) => settings("docker", ...keys)),
  "RunnerHost.dockerPackages[]": { at: [settings("docker", "packages")] },
  "RunnerHost.dockerMachine.url": { at: [settings("dockerMachine", "url")], valid: "https://example.com/machine" },
  "RunnerHost.dockerMachine.sha256": { at: [settings("dockerMachine", "sha256")], valid: "0123456789abcdef".repeat(4) },

  "RunnerRegistration.gitlabUrl": { at: [runner("url")], valid: "https://gitlab.example.com" },
  "RunnerRegistration.cloneUrl": { at: [runner("clone_url")], valid: "https://clone.example.com" },
  "RunnerRegistration.token.project": runnerToken.project,
  "RunnerRegistration.token.secretId": runnerToken.secretId,
  "RunnerRegistration.token.version": runnerToken.version,
  "RunnerRegistration.unhealthyInterval": { at: [runner("unhealthy_interval")], valid: "90m" },
  "RunnerRegistration.prepareTimeout": { at: [runner("prepare_timeout")], valid: "31m" },
  "RunnerRegistration.getSourcesTimeout": { at: [runner("get_sources_timeout")], valid: "32m" },
  "RunnerRegistration.shell": { at: [runner("shell")], valid: "sh" },
  "RunnerRegistration.cache.type": { at: [runner("cache", "Type")], valid: "gcs" },
  "RunnerRegistration.docker.pullPolicy": { at: [runner("docker", "pull_policy")], valid: "never" },
  "RunnerRegistration.docker.allowedPullPolicies[]": {
    at: [runner("docker", "allowed_pull_policies")],
    valid: "always",
  },
  "RunnerRegistration.featureFlags{}": {
    at: [membersOf(runner("feature_flags"))],
    valid: true,
  },
  "RunnerRegistration.overrides{}": { at: [membersOf(runner())], itemwise: true },
  ...Object.fromEntries(
    Object.entries(DOCKER).map(([property, key]) => [
      `RunnerRegistration.docker.${property}`,
      { at: [runner("docker", key)] },
    ]),
  ),
  ...Object.fromEntries(
    Object.entries(RUNNER).map(([property, keys]) => [`RunnerRegistration.${property}`, { at: [runner(...keys)] }]),
  ),

  "DockerMachineWorkers.project": { at: [option("google-project")], valid: "runner-project" },
  "DockerMachineWorkers.zone": { at: [option("google-zone")], valid: "europe-west1-c" },
  "DockerMachineWorkers.network.network": { at: [option("google-network")], valid: "projects/p/global/networks/n" },
  "DockerMachineWorkers.network.subnetwork": {
    at: [option("google-subnetwork")],
    valid: "projects/p/regions/r/subnetworks/s",
  },
  "DockerMachineWorkers.machineType": { at: [option("google-machine-type")], valid: "n2-standard-4" },
  "DockerMachineWorkers.image": { at: [option("google-machine-image")], valid: IMAGE },
  "DockerMachineWorkers.diskType": { at: [option("google-disk-type")], valid: "pd-ssd" },
  "DockerMachineWorkers.username": { at: [option("google-username")] },
  "DockerMachineWorkers.serviceAccountEmail": { at: [option("google-service-account")] },
  "DockerMachineWorkers.scopes[]": { at: [listOf(option("google-scopes"))] },
  "DockerMachineWorkers.tags[]": { at: [listOf(option("google-tags"))], valid: "ci-worker" },
  "DockerMachineWorkers.labels{}": {
    at: [(host) => labelOptions(host).slice(0, -1).sort()],
    valid: "red",
    as: (labels) =>
      Object.entries(labels as Table)
        .map(([key, value]) => `google-label=${key}:${String(value)}`)
        .sort(),
  },
  "DockerMachineWorkers.machineOptions[]": {
    at: [(host) => (machineOptions(host, undefined) as string[]).filter((item) => !/^google-/.test(item))],
  },
  "DockerMachineWorkers.machineName": { at: [runner("machine", "MachineName")], valid: "ci-%s" },
  "DockerMachineWorkers.autoscaling[].periods[]": {
    at: [runner("machine", "autoscaling", 0, "Periods")],
    valid: "* * 9-17 * * mon-fri *",
  },
  "DockerMachineWorkers.autoscaling[].timezone": {
    at: [runner("machine", "autoscaling", 0, "Timezone")],
    valid: "Asia/Jakarta",
  },
};

const NO_FILE = "an attribute of a resource of Google's, not part of a file on a host";
const EXCEPTIONS: { readonly [property: string]: string } = {
  "CacheHost.buildCacheServer": "chosen at synth time: the templates differ",
  ...Object.fromEntries(
    ["CacheHost", "RunnerHost"].flatMap((host) =>
      [
        "network.network",
        "network.subnetwork",
        "network.project",
        "machineType",
        "image",
        "labels{}",
        "serviceAccountEmail",
        "metricsClientRanges[]",
      ].map((property) => [`${host}.${property}`, NO_FILE]),
    ),
  ),
  "CacheHost.name": NO_FILE,
  "CacheHost.zone": NO_FILE,
  "CacheHost.cacheDiskType": NO_FILE,
  "CacheHost.clientRanges[]": NO_FILE,
  "DockerMachineWorkers.name": NO_FILE,
  "DockerMachineWorkers.network.project": NO_FILE,
  "RunnerMonitoring.notificationChannels[]": NO_FILE,
  "RunnerMonitoring.project": NO_FILE,
  "RunnerMonitoring.name": NO_FILE,
  "RunnerMonitoring.labels{}": NO_FILE,
  "RunnerNetwork.project": NO_FILE,
  "RunnerNetwork.region": NO_FILE,
  "RunnerNetwork.name": NO_FILE,
  "RunnerNetwork.ipCidrRange": NO_FILE,
  "RunnerTokenSecret.project": NO_FILE,
  "RunnerTokenSecret.secretId": NO_FILE,
  "RunnerTokenSecret.labels{}": NO_FILE,
  "RunnerTokenSecret.token": "a secret: it goes to Secret Manager only",
};

test("every string property is in the table of places, or has a reason why not", () => {
  const known = [...Object.keys(TABLE), ...Object.keys(EXCEPTIONS)];
  expect(known.sort()).toEqual(stringProperties().sort());
});

/** Gives a value to one property after the other, and knows what is expected of it. */
class Values {
  public readonly expected = new Map<string, unknown>();
  public readonly variables: { [name: string]: unknown } = {};

  constructor(
    private readonly scope: Construct,
    private readonly form: Form,
    private readonly hostile: (name: string) => string,
  ) {}

  /** The properties of a construct, with values at all places of the table. */
  public propsOf(construct: string): never {
    const props: Table = {};
    for (const [property, row] of Object.entries(TABLE)) {
      if (property.startsWith(`${construct}.`)) {
        const { given, expected } = this.valueOf(property, row);
        this.expected.set(property, row.as ? row.as(expected) : expected);
        put(props, property.slice(construct.length + 1), given);
      }
    }
    return props as never;
  }

  private valueOf(property: string, row: Row): Given {
    const list = () => this.list(property, row);
    if (property.endsWith("{}[]")) {
      const { given, expected } = list();
      const key = this.key(property, row);
      return { given: { [key]: given }, expected: { [key]: expected } };
    }
    if (property.endsWith("{}")) {
      return this.map(property, row);
    }
    return property.endsWith("[]") ? list() : this.text(property, row);
  }

  private text(name: string, { valid }: Row): Given {
    const text = this.hostile(name);
    if (valid !== undefined && (this.form === "literal" || typeof valid !== "string")) {
      return { given: valid, expected: valid };
    }
    switch (this.form) {
      case "literal":
        return { given: text, expected: text };
      case "literal and variable mixed": {
        // A literal that broke a rule would not get this far.
        const [before, after] = valid === undefined ? [text, text] : ["a-", "-z"];
        return {
          given: `${before}${this.variable("string", text).stringValue}${after}`,
          expected: `${before}${text}${after}`,
        };
      }
      default:
        return { given: this.variable("string", text).stringValue, expected: text };
    }
  }

  private list(name: string, row: Row): Given {
    const items = [this.text(`${name} 1`, row), this.text(`${name} 2`, row)];
    const expected = items.map((item) => item.expected);
    if (this.form === "variable that is a list or map" && !row.itemwise) {
      return { given: this.variable("list(string)", expected).listValue, expected };
    }
    return { given: items.map(({ given }) => given), expected };
  }

  private map(name: string, row: Row): Given {
    const { given, expected } = this.text(name, row);
    const key = this.key(name, row);
    if (this.form === "variable that is a list or map" && !row.itemwise) {
      const map = { [this.hostile(`${name} key`)]: expected };
      return { given: Token.asStringMap(this.variable("map(string)", map).value), expected: map };
    }
    return { given: { [key]: given }, expected: { [key]: expected } };
  }

  private key(name: string, { valid }: Row): string {
    return typeof valid === "string" ? "key" : `key ${this.hostile(name)}`;
  }

  private variable(type: string, value: unknown): TerraformVariable {
    const name = `value_${Object.keys(this.variables).length}`;
    const variable = new TerraformVariable(this.scope, name, { type });
    this.variables[variable.friendlyUniqueId] = value;
    return variable;
  }
}

function put(target: { [name: string]: unknown }, path: string, value: unknown): void {
  const [first, ...rest] = path.split(".");
  const name = first.replace(/[[\]{}]+$/, "");
  if (rest.length === 0) {
    target[name] = value;
  } else if (first.endsWith("[]")) {
    put(((target[name] ??= [{}]) as Table[])[0], rest.join("."), value);
  } else {
    put((target[name] ??= {}) as Table, rest.join("."), value);
  }
}

/** Two hosts, all of whose properties have such a value. */
class Deployment extends Construct {
  public readonly values: Values;
  private readonly hosts: { readonly cache: string; readonly runner: string };

  constructor(scope: Construct, id: string, form: Form, hostile: (name: string) => string) {
    super(scope, id);
    this.values = new Values(this, form, hostile);
    const network = { network: "default", subnetwork: "default" };
    const place = { project: "my-project", zone: "us-central1-a", network };
    const opsAgent = true;
    const cacheHost = new CacheHost(this, "Cache", {
      ...place,
      opsAgent,
      ...(this.values.propsOf("CacheHost") as object),
    });
    const host = new RunnerHost(this, "Host", {
      network,
      opsAgent,
      ...(this.values.propsOf("RunnerHost") as object),
    } as never);
    new RunnerRegistration(this, "Registration", {
      host,
      workers: new DockerMachineWorkers(this, "Workers", this.values.propsOf("DockerMachineWorkers")),
      ...(this.values.propsOf("RunnerRegistration") as object),
    } as never);
    new RunnerRegistration(this, "PlainRegistration", {
      host,
      cacheHost,
      workers: new DockerMachineWorkers(this, "PlainWorkers", { ...place, project: host.project }),
      gitlabUrl: "https://gitlab.example.com",
      token: { project: "my-project", secretId: "token" },
    });
    const instance = (of: Construct) => (of.node.findChild("Resource") as ComputeInstance).friendlyUniqueId;
    this.hosts = { cache: instance(cacheHost), runner: instance(host) };
  }

  public readonly read = (metadata: Map<string, Metadata>): Host => {
    const cache = metadata.get(this.hosts.cache)!;
    const host = metadata.get(this.hosts.runner)!;
    const config = parseConfigToml(host["config-toml"]);
    const [runner, plainRunner] = config["runners"] as Table[];
    return {
      config,
      runner,
      plainRunner,
      settings: parseSettings(parseUserData(host["user-data"])) as Table,
      cacheHostSettings: parseSettings(parseUserData(cache["user-data"])) as Table,
      cacheSettings: JSON.parse(cache["cache-settings"]) as Table,
      buildCacheKeys: JSON.parse(cache["build-cache-keys"]) as Table,
      compose: parseCompose(cache["compose-yaml"]) as Table,
    };
  };
}

/** The one that cloud-init uses. */
const PYTHON = "/usr/bin/python3";
const pyYaml = available(
  spawnSync(PYTHON, ["-c", "import yaml"]).status === 0,
  `${PYTHON} has no PyYAML; get it: apt-get install python3-yaml`,
);

describeIf(programAvailable("terraform")).each(FORMS)("a %s", (form) => {
  const folder = temporaryFolder();
  const hostileValues = { ...HOSTILE, ...(form === "literal" ? HOSTILE_LITERALS : {}) };
  const deployments = new Map<string, Deployment>();
  let metadata: Map<string, Metadata>;

  beforeAll(async () => {
    const stack = new TerraformStack(new App({ outdir: folder }), "strings");
    for (const [number, [what, hostile]] of Object.entries(hostileValues).entries()) {
      deployments.set(what, new Deployment(stack, `deployment-${number}`, form, hostile));
    }
    const values = Object.assign({}, ...[...deployments.values()].map(({ values }) => values.variables)) as Table;
    metadata = await renderMetadata(folder, parse(Testing.synth(stack)), values);
  });

  test.each(Object.keys(hostileValues))("with %s comes out as it went in, at every property", (what) => {
    const { values, read } = deployments.get(what)!;
    const host = read(metadata);
    const found: { [property: string]: unknown } = {};
    const expected: { [property: string]: unknown } = {};
    for (const [property, { at }] of Object.entries(TABLE)) {
      const value = values.expected.get(property);
      found[property] = at.map((get) => get(host, value));
      expected[property] = at.map(() => value);
    }
    expect(found).toEqual(expected);
  });

  (pyYaml ? test : test.skip)("is in user-data that Python reads as JavaScript does", async () => {
    const texts = [...metadata.values()].map((host) => host["user-data"]);
    const program = "import json, sys, yaml; json.dump([yaml.safe_load(t) for t in json.load(sys.stdin)], sys.stdout)";
    const output = await outputOf([PYTHON, "-c", program], { input: JSON.stringify(texts) });
    expect(JSON.parse(output)).toEqual(texts.map(parseUserData));
  });
});
