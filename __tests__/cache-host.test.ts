import { TerraformStack } from "cdktf";
import { parse as parseYaml } from "yaml";
import { BuildCacheServer, CacheHost, CacheHostProps } from "../constructs/cache-host";
import { IMAGES } from "../constructs/versions";
import { behavesAsHostVm } from "./host-vm-behaviour";
import "./readable-snapshots";
import { evaluated, networkPaths, place, resolved, Synthesized, synthesized, variable } from "./synthesized";

const create = (stack: TerraformStack, props: Partial<CacheHostProps> = {}) =>
  new CacheHost(stack, "Cache", { ...place, ...props });
const cache = (props: Partial<CacheHostProps> = {}) =>
  synthesized((stack) => {
    create(stack, props);
  });

interface ComposeService {
  readonly logging?: object;
  readonly image: string;
  readonly ports: string[];
  readonly environment: Record<string, string>;
  readonly command: string[];
}
const services = (stack: Synthesized) =>
  (
    parseYaml(evaluated(stack.one("google_compute_instance").metadata["compose-yaml"])) as {
      services: Record<"registry-mirror" | "build-cache", ComposeService>;
    }
  ).services;
const settings = (stack: Synthesized) =>
  JSON.parse(evaluated(stack.one("google_compute_instance").metadata["cache-settings"])) as object;
const userData = (stack: Synthesized) => evaluated(stack.one("google_compute_instance").metadata["user-data"]);

const dockerHub = { dockerHubUsername: "me", dockerHubToken: { project: "hub-project", secretId: "hub-token" } };

test("default cache host", () => {
  expect(cache().resources).toMatchSnapshot();
});

describe("as a host", () => behavesAsHostVm((stack, id, props) => new CacheHost(stack, id, props)));

describe("registry mirror", () => {
  test("serves Docker Hub on port 6000, and forgets what it fetched a week ago", () => {
    expect(services(cache())["registry-mirror"]).toEqual({
      image: IMAGES.registry,
      restart: "always",
      ports: ["6000:5000", "127.0.0.1:9253:5001"],
      environment: {
        REGISTRY_PROXY_REMOTEURL: "https://registry-1.docker.io",
        REGISTRY_PROXY_TTL: "168h",
        REGISTRY_STORAGE_DELETE_ENABLED: "true",
        REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR: "none",
        OTEL_TRACES_EXPORTER: "none",
        REGISTRY_HTTP_DEBUG_ADDR: ":5001",
        REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED: "true",
        REGISTRY_HTTP_DEBUG_PROMETHEUS_PATH: "/metrics",
      },
      volumes: ["/srv/cache/registry:/var/lib/registry"],
      logging: { driver: "local" },
    });
  });

  test("the log of no container grows for ever", () => {
    const logging = Object.values(services(cache())).map(({ logging }) => logging);
    expect(logging).toEqual([{ driver: "local" }, { driver: "local" }]);
  });

  test("port, upstream, TTL and image are chosen", () => {
    const stack = cache({
      registryMirrorPort: 7000,
      registryUpstream: "https://hub.example",
      registryTtl: "24h",
      registryImage: "registry.example/registry:3",
    });
    expect(services(stack)["registry-mirror"]).toMatchObject({
      image: "registry.example/registry:3",
      ports: ["7000:5000", "127.0.0.1:9253:5001"],
      environment: { REGISTRY_PROXY_REMOTEURL: "https://hub.example", REGISTRY_PROXY_TTL: "24h" },
    });
    expect(settings(stack)).toMatchObject({ registryMirrorPort: 7000 });
  });

  test("its metrics are for the host itself, and for all of its addresses where somebody is let in", () => {
    const ports = (metricsClientRanges: string[]) => services(cache({ metricsClientRanges }))["registry-mirror"].ports;
    expect(ports([])).toContain("127.0.0.1:9253:5001");
    expect(ports(["10.0.0.0/24"])).toContain("9253:5001");
  });

  test("logs in to Docker Hub with a secret that the host reads itself", () => {
    const stack = cache(dockerHub);
    expect(services(stack)["registry-mirror"].environment).toMatchObject({
      REGISTRY_PROXY_USERNAME: "me",
      REGISTRY_PROXY_PASSWORD: "secret://projects/hub-project/secrets/hub-token/versions/latest",
    });
    expect(stack.one("google_secret_manager_secret_iam_member", "Cache_ReadDockerHubToken")).toMatchObject({
      project: "hub-project",
      secret_id: "hub-token",
      role: "roles/secretmanager.secretAccessor",
      member: expect.stringMatching(/^serviceAccount:\$\{google_service_account\.Cache_/) as string,
    });
    expect(stack.one("google_compute_instance")["depends_on"]).toContainEqual(
      expect.stringMatching(/^google_secret_manager_secret_iam_member\.Cache_ReadDockerHubToken_/),
    );
  });
});

describe("build cache", () => {
  test("is versitygw on port 9005, with accounts that change without it", () => {
    const stack = cache();
    const service = services(stack)["build-cache"];
    expect(service).toMatchObject({
      image: IMAGES.versitygw,
      ports: ["9005:9000"],
      env_file: "/etc/gitlab-runner-gce/build-cache-root.env",
      command: expect.arrayContaining(["--iam-dir", "/iam", "--iam-cache-disable", "posix", "/export"]) as string[],
      volumes: ["/srv/cache/export:/export", "/srv/cache/iam:/iam"],
    });
    expect(service).not.toHaveProperty("environment");
    expect(JSON.stringify(service)).not.toContain("secret://");
    expect(JSON.parse(evaluated(stack.one("google_compute_instance").metadata["build-cache-keys"]))).toEqual({
      access_key: expect.stringContaining("/versions/latest#access_key") as string,
      secret_key: expect.stringContaining("/versions/latest#secret_key") as string,
    });
  });

  test("is MinIO for those who have its data", () => {
    const stack = cache({ buildCacheServer: BuildCacheServer.MINIO });
    expect(settings(stack)).toMatchObject({ buildCacheServer: "minio" });
    const service = services(stack)["build-cache"];
    expect(service).not.toHaveProperty("env_file");
    expect(service).toMatchObject({
      image: IMAGES.minio,
      environment: {
        MINIO_ROOT_USER: expect.stringContaining("#access_key") as string,
        MINIO_ROOT_PASSWORD: expect.stringContaining("#secret_key") as string,
        MINIO_BROWSER: "off",
      },
      command: ["server", "--address", ":9000", "/export"],
      volumes: ["/srv/cache/export:/export"],
    });
  });

  test("port, bucket, image, age and fill level are chosen", () => {
    const chosen = { buildCachePort: 9000, bucket: "builds", maxAgeDays: 7, highWaterPercent: 70 };
    const stack = cache({ ...chosen, buildCacheImage: "registry.example/s3:1" });
    expect(services(stack)["build-cache"]).toMatchObject({
      image: "registry.example/s3:1",
      ports: ["9000:9000"],
      labels: { bucket: "builds" },
    });
    expect(settings(stack)).toEqual({ registryMirrorPort: 6000, buildCacheServer: "versitygw", ...chosen });
  });

  test("keeps 14 days and up to 85 percent of the disk", () => {
    expect(settings(cache())).toEqual({
      registryMirrorPort: 6000,
      buildCachePort: 9005,
      bucket: "runner",
      buildCacheServer: "versitygw",
      maxAgeDays: 14,
      highWaterPercent: 85,
    });
  });

  test("every image is pinned by its digest", () => {
    for (const image of Object.values(IMAGES)) {
      expect(image).toMatch(/^[a-z0-9./-]+:[A-Za-z0-9.-]+@sha256:[0-9a-f]{64}$/);
    }
  });
});

describe("the keys' secret", () => {
  test("is the host's to read and to add versions to, and nothing else", () => {
    const stack = cache();
    expect(stack.one("google_secret_manager_secret")).toMatchObject({
      secret_id: "stack-cache-keys",
      replication: { auto: {} },
    });
    expect(stack.all("google_secret_manager_secret_version")).toEqual([]);
    expect(stack.all("google_project_iam_member")).toEqual([]);
    expect(
      stack.all("google_secret_manager_secret_iam_member").map(({ role, secret_id, member }) => ({
        role,
        secret: /Cache_Keys_\w+\.secret_id/.test(String(secret_id)),
        member: String(member).replace(/_[0-9A-F]{8}/, ""),
      })),
    ).toEqual(
      ["secretVersionAdder", "secretAccessor"].map((role) => ({
        role: `roles/secretmanager.${role}`,
        secret: true,
        member: "serviceAccount:${google_service_account.Cache_ServiceAccount.email}",
      })),
    );
    expect(userData(stack)).toMatch(/projects\/my-project\/secrets\//);
  });

  test("has the id that is given", () => {
    expect(cache({ keysSecretId: "my-keys" }).one("google_secret_manager_secret")).toMatchObject({
      secret_id: "my-keys",
    });
  });
});

describe("the data disk", () => {
  test("outlives the VM, which finds it by name", () => {
    const stack = cache();
    expect(stack.one("google_compute_disk")).toMatchObject({
      name: "stack-cache-data",
      zone: "europe-west1-b",
      size: 100,
      type: "pd-balanced",
    });
    expect(stack.one("google_compute_instance")).toMatchObject({
      attached_disk: [
        {
          device_name: "cache",
          source: expect.stringMatching(/^\$\{google_compute_disk\.Cache_Disk_\w+\.self_link\}$/) as string,
        },
      ],
    });
  });

  test("another disk is an empty one, which takes a new VM to format; so does another place for the address", () => {
    expect(cache().one("null_resource", "Cache_Bootstrap")["triggers"]).toMatchObject({
      disk: expect.stringMatching(/^\$\{google_compute_disk\.Cache_Disk_\w+\.disk_id\}$/) as string,
      subnetwork: networkPaths.subnetwork,
    });
  });

  test("size and type are chosen", () => {
    expect(cache({ cacheDiskGb: 500, cacheDiskType: "pd-ssd" }).one("google_compute_disk")).toMatchObject({
      size: 500,
      type: "pd-ssd",
    });
  });
});

describe("the address", () => {
  test("is internal, of the zone's region, and stays when the VM is replaced", () => {
    const stack = cache();
    expect(stack.one("google_compute_address")).toMatchObject({
      address_type: "INTERNAL",
      region: "europe-west1",
      subnetwork: networkPaths.subnetwork,
    });
    expect(stack.one("google_compute_instance")).toMatchObject({
      network_interface: [
        { network_ip: expect.stringMatching(/^\$\{google_compute_address\.Cache_Address_\w+\.address\}$/) as string },
      ],
    });
  });

  test("of a zone that is a variable is of its region", () => {
    const stack = synthesized((stack) => {
      create(stack, { zone: variable(stack).stringValue });
    });
    expect(stack.one("google_compute_address")).toMatchObject({
      region: '${join("-", slice(split("-", var.tuned), 0, 2))}',
    });
  });

  test("is what clients are told", () => {
    const told = resolved((stack) => {
      const host = create(stack, { registryMirrorPort: 7000, buildCachePort: 9000, bucket: "builds" });
      return { mirror: host.registryMirrorUrl, endpoint: host.buildCacheEndpoint, cache: host.buildCache };
    });
    const address = String.raw`\$\{google_compute_address\.Cache_Address_\w+\.address\}`;
    const endpoint = expect.stringMatching(`^${address}:9000$`) as string;
    const key = (field: string) =>
      expect.stringMatching(
        String.raw`^secret://projects/my-project/secrets/\$\{google_secret_manager_secret\.Cache_Keys_\w+\.secret_id\}/versions/latest#${field}$`,
      ) as string;
    expect(told).toMatchObject({
      mirror: expect.stringMatching(`^http://${address}:7000$`) as string,
      endpoint,
      cache: {
        credentials: { project: "my-project" },
        config: {
          type: "s3",
          shared: true,
          s3: {
            serverAddress: endpoint,
            accessKey: key("access_key"),
            secretKey: key("secret_key"),
            bucketName: "builds",
            bucketLocation: "us-east-1",
            authenticationType: "access-key",
            insecure: true,
            pathStyle: true,
          },
        },
      },
    });
  });
});

describe("the firewall", () => {
  const rule = (stack: Synthesized) => stack.one("google_compute_firewall", "Cache_Clients");

  test("lets nobody in before a client is named", () => {
    expect(rule(cache())).toMatchObject({
      source_ranges: [
        expect.stringMatching(/^\$\{google_compute_instance\.Cache_\w+\.network_interface\[0\]\.network_ip\}\/32$/),
      ],
      target_service_accounts: [expect.stringMatching(/^\$\{google_service_account\.Cache_ServiceAccount_/)],
      allow: [{ protocol: "tcp", ports: ["6000", "9005"] }],
    });
    expect(rule(cache())).not.toHaveProperty("source_service_accounts");
  });

  test("lets in each service account once, to the chosen ports", () => {
    const stack = synthesized((stack) => {
      const host = create(stack, { registryMirrorPort: 7000, buildCachePort: 9000 });
      ["a@x", "b@x", "a@x"].forEach((email) => host.allowFrom(email));
    });
    expect(rule(stack)).toMatchObject({
      source_service_accounts: ["a@x", "b@x"],
      allow: [{ protocol: "tcp", ports: ["7000", "9000"] }],
    });
    expect(rule(stack)).not.toHaveProperty("source_ranges");
  });

  test("lets in the ranges that are given, and service accounts besides", () => {
    expect(rule(cache({ clientRanges: ["10.1.0.0/16"] }))).toMatchObject({ source_ranges: ["10.1.0.0/16"] });
    const both = rule(synthesized((stack) => create(stack, { clientRanges: ["10.1.0.0/16"] }).allowFrom("a@x")));
    expect(both).toMatchObject({ source_ranges: ["10.1.0.0/16"], source_service_accounts: ["a@x"] });
  });

  test("is one rule for every ten service accounts: Google takes no more in one", () => {
    const many = synthesized((stack) => {
      const host = create(stack, { clientRanges: ["10.1.0.0/16"] });
      Array.from({ length: 21 }, (_, number) => host.allowFrom(`${number}@x`));
    });
    const rules = many.all("google_compute_firewall").filter(({ name }) => /-client/.test(String(name)));
    expect(
      rules.map(({ name, source_ranges: ranges, source_service_accounts: accounts }) => [
        name,
        ranges,
        (accounts as string[]).length,
      ]),
    ).toEqual([
      ["stack-cache-client2", undefined, 10],
      ["stack-cache-client3", undefined, 1],
      ["stack-cache-clients", ["10.1.0.0/16"], 10],
    ]);
  });
});

describe("what may change in place is not in user-data", () => {
  test.each<[string, Partial<CacheHostProps>]>([
    ["ports", { registryMirrorPort: 7000, buildCachePort: 9000 }],
    ["bucket", { bucket: "builds" }],
    ["age and fill level", { maxAgeDays: 3, highWaterPercent: 60 }],
    ["images", { registryImage: "a:1", buildCacheImage: "b:1" }],
    ["Docker Hub login", dockerHub],
  ])("%s", (_, changed) => {
    const before = cache();
    const after = cache(changed);
    expect(userData(after)).toBe(userData(before));
    expect(after.one("null_resource", "Cache_Bootstrap")).toEqual(before.one("null_resource", "Cache_Bootstrap"));
    expect(after.one("google_compute_instance").metadata).not.toEqual(before.one("google_compute_instance").metadata);
  });
});

test("Docker comes from the repository and in the versions that are given", () => {
  const stack = cache({
    dockerRepository: {
      url: "https://apt.example",
      keyUrl: "https://apt.example/key",
      keyFingerprint: "A".repeat(40),
      component: "main",
    },
    dockerPackages: ["docker-ce=5:29.1.0-1~*"],
  });
  const { triggers } = stack.one("null_resource", "Cache_Bootstrap") as unknown as { triggers: { settings: string } };
  expect(triggers.settings).toContain('"url": "https://apt.example"');
  expect(triggers.settings).toContain('"packages": ["docker-ce=5:29.1.0-1~*"]');
  expect(userData(stack)).toContain("https://apt.example/key");
});

describe("against the rules", () => {
  const port = "be between 1 and 65535 (a TCP port)";
  const bucket = "be a bucket name (3 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit)";

  test.each([
    ["registryMirrorPort", 0, port],
    ["registryMirrorPort", 70000, port],
    ["buildCachePort", 90.5, port],
    ["registryUpstream", "registry-1.docker.io", "be a URL that begins with https:// or http://"],
    ["registryTtl", "7d", "be a duration such as 90s, 15m or 168h"],
    [
      "keysSecretId",
      "keys of ci",
      "be the id of a Secret Manager secret (1 to 255 of letters, digits, _ and -) and not be the token itself: store that with `gcloud secrets create`",
    ],
    ["bucket", "My_Bucket", bucket],
    ["bucket", "ab", bucket],
    ["maxAgeDays", 0, "be between 1 and 3650 (days)"],
    ["highWaterPercent", 49, "be between 50 and 95 (percent)"],
    ["highWaterPercent", 96, "be between 50 and 95 (percent)"],
    ["cacheDiskGb", 9, "be between 10 and 65536 (GB)"],
    ["cacheDiskType", "ssd", "be a disk type: pd-standard, pd-balanced, pd-ssd, pd-extreme or hyperdisk-…"],
  ])("%s: %j", (property, value, must) => {
    expect(() => cache({ [property]: value })).toThrow(
      new Error(`'${property}' must ${must}, got ${JSON.stringify(value)}`),
    );
  });

  test("both services on one port", () => {
    expect(() => cache({ buildCachePort: 6000 })).toThrow(
      new Error("'buildCachePort' must differ from 'registryMirrorPort', got 6000 for both"),
    );
  });

  test.each(["registryMirrorPort", "buildCachePort"])("%s on the port of SSH", (property) => {
    expect(() => cache({ [property]: 22 })).toThrow(new Error(`'${property}' must not be the host's SSH port, got 22`));
  });

  test.each(["registryMirrorPort", "buildCachePort"])("%s on the port of the mirror's metrics", (property) => {
    expect(() => cache({ [property]: 9253 })).toThrow(
      new Error(`'${property}' must not be the port of the registry mirror's metrics, got 9253`),
    );
  });

  test("clientRanges: no range", () => {
    expect(() => cache({ clientRanges: ["10.0.0.0/8", "10.0.0.1"] })).toThrow(
      new Error(`'clientRanges' must be an IPv4 range such as 10.0.0.0/8, got "10.0.0.1"`),
    );
  });

  test("buildCacheServer: unknown", () => {
    expect(() => cache({ buildCacheServer: "ceph" as BuildCacheServer })).toThrow(
      new Error(`'buildCacheServer' must be one of versitygw, minio, got "ceph"`),
    );
  });

  test("buildCacheServer: a Terraform value, which comes too late", () => {
    const build = (stack: TerraformStack) =>
      void create(stack, { buildCacheServer: variable(stack).stringValue as BuildCacheServer });
    expect(() => synthesized(build)).toThrow(
      new Error("'buildCacheServer' must be one of versitygw, minio, got a Terraform value"),
    );
  });

  test("half a Docker Hub login", () => {
    const wants = "must be given too: Docker Hub wants a user name and an access token";
    expect(() => cache({ dockerHubUsername: "me" })).toThrow(new Error(`'dockerHubToken' ${wants}`));
    expect(() => cache({ dockerHubToken: dockerHub.dockerHubToken })).toThrow(
      new Error(`'dockerHubUsername' ${wants}`),
    );
  });

  test("a Docker Hub token as plain text is not repeated", () => {
    const plain = { dockerHubUsername: "me", dockerHubToken: "dckr_pat_verysecret" as unknown as undefined };
    expect(() => cache(plain)).toThrow("'dockerHubToken' must be a reference to a Secret Manager secret");
    expect(() => cache(plain)).not.toThrow("verysecret");
  });

  test("dockerRepository: key fingerprint", () => {
    const dockerRepository = { url: "https://a", keyUrl: "https://a/k", keyFingerprint: "0EBFCD88", component: "c" };
    expect(() => cache({ dockerRepository })).toThrow(
      new Error(`'dockerRepository.keyFingerprint' must be a key fingerprint of 40 hexadecimal digits, got "0EBFCD88"`),
    );
  });
});

describe("a Terraform variable is taken unjudged for", () => {
  test.each([
    "registryUpstream",
    "registryTtl",
    "bucket",
    "cacheDiskType",
    "keysSecretId",
    "registryImage",
    "buildCacheImage",
  ])("%s", (property) => {
    const { text } = synthesized((stack) => {
      create(stack, { [property]: variable(stack).stringValue });
    });
    expect(text).toContain("var.tuned");
  });

  test.each(["registryMirrorPort", "buildCachePort", "maxAgeDays", "highWaterPercent", "cacheDiskGb"])(
    "%s",
    (property) => {
      const { text } = synthesized((stack) => {
        create(stack, { [property]: variable(stack).numberValue });
      });
      expect(text).toContain("var.tuned");
      expect(text).not.toMatch(/-?1\.\d+e\+?308/);
    },
  );

  test.each([
    [
      "clientRanges",
      // It may turn out empty.
      /"source_ranges": "\$\{coalescelist\(var\.tuned, \[.*google_compute_instance\.Cache_\w+\..*\/32.*\]\)\}"/,
    ],
    ["dockerPackages", /\$\{jsonencode\(var\.tuned\)\}/],
  ])("%s", (property, expression) => {
    const { text } = synthesized((stack) => {
      create(stack, { [property]: variable(stack).listValue });
    });
    expect(text).toMatch(expression);
  });
});
