import { TerraformStack, Testing } from "cdktf";
import { CacheHost } from "../constructs/cache-host";
import { DockerMachineWorkers, DockerMachineWorkersProps } from "../constructs/docker-machine-workers";
import { RunnerHost, RunnerHostProps } from "../constructs/runner-host";
import { RunnerNetwork } from "../constructs/runner-network";
import { RunnerRegistration, RunnerRegistrationProps } from "../constructs/runner-registration";
import { SecretReference } from "../constructs/secret-reference";
import { configToml, evaluated, place, RunnerEntry, Synthesized, synthesized, variable, warnings } from "./synthesized";

/** What a registration is made with, besides what is tested. */
interface Surroundings {
  readonly host?: Partial<RunnerHostProps>;
  readonly workers?: Partial<DockerMachineWorkersProps>;
  readonly withCacheHost?: boolean;
}

const token = { project: "my-project", secretId: "runner-token" };
function create(
  stack: TerraformStack,
  props: Partial<RunnerRegistrationProps> = {},
  { host, workers, withCacheHost }: Surroundings = {},
): RunnerRegistration {
  return new RunnerRegistration(stack, "Runner", {
    host: new RunnerHost(stack, "Host", { ...place, ...host }),
    workers: new DockerMachineWorkers(stack, "Workers", { ...place, ...workers }),
    cacheHost: withCacheHost === true ? new CacheHost(stack, "Cache", place) : undefined,
    gitlabUrl: "https://gitlab.com",
    token,
    ...props,
  });
}
const registration = (props?: Partial<RunnerRegistrationProps>, surroundings?: Surroundings) =>
  synthesized((stack) => {
    create(stack, props, surroundings);
  });
const toml = (stack: Synthesized) => stack.one("google_compute_instance", "Host").metadata["config-toml"];
const entry = (props?: Partial<RunnerRegistrationProps>, surroundings?: Surroundings): RunnerEntry => {
  const { runners } = configToml(registration(props, surroundings).one("google_compute_instance", "Host"));
  expect(runners).toHaveLength(1);
  return runners[0];
};
function warningsOf(props?: Partial<RunnerRegistrationProps>, surroundings?: Surroundings): string[] {
  let found: string[] = [];
  synthesized((stack) => {
    found = warnings(create(stack, props, surroundings));
  });
  return found;
}

test("jobs keep their way out until the host is drained, also in a network that is not the host's", () => {
  const stack = synthesized((stack) => {
    const network = new RunnerNetwork(stack, "Workshop", { project: "my-project", region: "europe-west1" });
    create(stack, {}, { workers: { network } });
  });
  expect(stack.one("null_resource", "Host_Drain")["depends_on"]).toEqual(
    expect.arrayContaining([expect.stringMatching(/^google_compute_router_nat\.Workshop_Nat_\w+$/)]),
  );
});

test("default registration: the config.toml of its host", () => {
  const text = evaluated(toml(registration())).replace(/"[^"\n]*\\"[^\n]*?_[0-9A-F]{8}\.email\]\)\)"/, "<expression>");
  expect(text).toMatchInlineSnapshot(`
   "concurrent = 10
   log_format = "json"
   listen_address = "127.0.0.1:9252"

   [[runners]]
   name = "stack-host"
   url = "https://gitlab.com"
   token = "secret://projects/my-project/secrets/runner-token/versions/latest"
   executor = "docker+machine"
   limit = 10

   [runners.feature_flags]
   FF_DISABLE_AUTOMATIC_TOKEN_ROTATION = true

   [runners.docker]
   image = "alpine:latest"
   privileged = false
   volumes = [ "/cache" ]

   [runners.machine]
   IdleCount = 0
   IdleTime = 600
   MaxBuilds = 10
   MachineDriver = "google"
   MachineName = "%s"
   MachineOptions = [ "google-project=my-project", "google-zone=europe-west1-b", "google-machine-type=e2-standard-2", "google-machine-image=cos-cloud/global/images/family/cos-stable", "google-disk-size=50", "google-disk-type=pd-balanced", "google-username=docker-user", "google-network=projects/my-project/global/networks/shared", "google-subnetwork=projects/my-project/regions/europe-west1/subnetworks/builds", "google-use-internal-ip-only", "google-skip-firewall-create", <expression>, "google-scopes=https://www.googleapis.com/auth/logging.write,https://www.googleapis.com/auth/monitoring.write", "google-metadata=enable-oslogin=FALSE", "google-metadata=block-project-ssh-keys=TRUE", "google-metadata-from-file=startup-script=/usr/local/lib/gitlab-runner-gce/worker-startup.sh", "google-metadata=manager-timeout=1800", "google-metadata=docker-high-water=80", "google-label=gitlab-runner-manager:stack-host" ]
   "
  `);
});

test("default registration with a cache host: the cache", () => {
  const { cache } = entry({}, { withCacheHost: true });
  expect(cache).toMatchObject({
    Type: "s3",
    Shared: true,
    s3: {
      ServerAddress: expect.stringMatching(/google_compute_address\.Cache_Address_\w+\.address, ":9005"/) as string,
      AccessKey: expect.stringContaining("/versions/latest#access_key") as string,
      SecretKey: expect.stringContaining("/versions/latest#secret_key") as string,
      BucketName: "runner",
      BucketLocation: "us-east-1",
      AuthenticationType: "access-key",
      Insecure: true,
      PathStyle: true,
    },
  });
});

test("every typed property is in the entry", () => {
  expect(
    entry({
      name: "ci",
      environment: ["A=b"],
      requestConcurrency: 2,
      outputLimit: 8192,
      strictCheckInterval: true,
      unhealthyRequestsLimit: 5,
      unhealthyInterval: "30m",
      jobStatusFinalUpdateRetryLimit: 4,
      buildsDir: "/b",
      cacheDir: "/c",
      cloneUrl: "https://clone.example",
      tlsCaFile: "/etc/ca.pem",
      preGetSourcesScript: "1",
      postGetSourcesScript: "2",
      preBuildScript: "3",
      postBuildScript: "4",
      prepareTimeout: "5m",
      getSourcesTimeout: "6m",
      debugTraceDisabled: true,
      safeDirectoryCheckout: true,
      cleanGitConfig: false,
      shell: "pwsh",
      featureFlags: { FF_NETWORK_PER_BUILD: true },
    }),
  ).toMatchObject({
    name: "ci",
    url: "https://gitlab.com",
    token: "secret://projects/my-project/secrets/runner-token/versions/latest",
    executor: "docker+machine",
    environment: ["A=b"],
    request_concurrency: 2,
    output_limit: 8192,
    strict_check_interval: true,
    unhealthy_requests_limit: 5,
    unhealthy_interval: "30m",
    job_status_final_update_retry_limit: 4,
    builds_dir: "/b",
    cache_dir: "/c",
    clone_url: "https://clone.example",
    "tls-ca-file": "/etc/ca.pem",
    pre_get_sources_script: "1",
    post_get_sources_script: "2",
    pre_build_script: "3",
    post_build_script: "4",
    prepare_timeout: "5m",
    get_sources_timeout: "6m",
    debug_trace_disabled: true,
    safe_directory_checkout: true,
    clean_git_config: false,
    shell: "pwsh",
    feature_flags: { FF_NETWORK_PER_BUILD: true },
  });
});

test("nothing but GitLab's keys is in the entry", () => {
  expect(Object.keys(entry({ mirrorInJobs: true }, { withCacheHost: true })).sort()).toEqual(
    ["cache", "docker", "executor", "feature_flags", "limit", "machine", "name", "token", "url"].sort(),
  );
});

describe("[runners.docker]", () => {
  test("is alpine, not privileged, with a volume for caches", () => {
    expect(entry().docker).toEqual({ image: "alpine:latest", privileged: false, volumes: ["/cache"] });
  });

  test("is what is given, and the default for the rest", () => {
    expect(entry({ docker: { privileged: true, memory: "2g", volumes: ["/x"] } }).docker).toEqual({
      image: "alpine:latest",
      privileged: true,
      memory: "2g",
      volumes: ["/x"],
    });
  });

  test("gives jobs the registry mirror's address, for docker-in-docker", () => {
    const mirror = "/var/lib/gitlab-runner-worker/etc-docker:/etc/docker";
    const volumes = (props: Partial<RunnerRegistrationProps>) =>
      entry(props, { withCacheHost: true }).docker["volumes"];
    expect(volumes({})).toEqual(["/cache", mirror]);
    expect(volumes({ docker: { volumes: ["/x"] } })).toEqual(["/x", mirror]);
    expect(volumes({ mirrorInJobs: false })).toEqual(["/cache"]);
  });
});

describe("with a cache host", () => {
  test("the workers' Docker uses its registry mirror", () => {
    const options = entry({}, { withCacheHost: true }).machine.MachineOptions.join("\n");
    expect(options).toMatch(/engine-registry-mirror=http:\/\/", google_compute_address\.Cache_Address_/);
    expect(options).toMatch(/google-metadata=registry-mirror=http:\/\/", google_compute_address\.Cache_Address_/);
  });

  test("it lets manager and workers in, and the manager reads its keys", () => {
    const stack = registration({}, { withCacheHost: true });
    expect(stack.one("google_compute_firewall", "Cache_Clients")).toMatchObject({
      source_service_accounts: [
        expect.stringMatching(/^\$\{google_service_account\.Host_ServiceAccount_/),
        expect.stringMatching(/^\$\{google_service_account\.Workers_ServiceAccount_/),
      ],
    });
    expect(
      stack
        .all("google_secret_manager_secret_iam_member", "Host")
        .map(({ secret_id: id }) => String(id).replace(/_[0-9A-F]{8}/, ""))
        .sort(),
    ).toEqual(["${google_secret_manager_secret.Cache_Keys.secret_id}", "runner-token"]);
  });

  test("'cache' changes single settings of its cache", () => {
    expect(
      entry({ cache: { shared: false, path: "team", s3: { bucketName: "other" } } }, { withCacheHost: true }).cache,
    ).toMatchObject({ Type: "s3", Shared: false, Path: "team", s3: { BucketName: "other", PathStyle: true } });
  });
});

describe("without a cache host", () => {
  test("there is no cache", () => expect(entry()).not.toHaveProperty("cache"));

  test("'cache' is the whole cache", () => {
    expect(entry({ cache: { type: "gcs", gcs: { bucketName: "my-bucket" } } }).cache).toEqual({
      Type: "gcs",
      gcs: { BucketName: "my-bucket" },
    });
  });
});

describe("rights", () => {
  test("the manager reads the token and acts as the workers, before its VM is made", () => {
    const stack = registration();
    expect(stack.one("google_secret_manager_secret_iam_member")).toMatchObject({
      project: "my-project",
      secret_id: "runner-token",
      role: "roles/secretmanager.secretAccessor",
      member: expect.stringMatching(/^serviceAccount:\$\{google_service_account\.Host_/) as string,
    });
    expect(stack.one("google_service_account_iam_member")).toMatchObject({
      role: "roles/iam.serviceAccountUser",
      service_account_id: expect.stringMatching(
        /^projects\/my-project\/serviceAccounts\/\$\{google_service_account\.Workers_/,
      ) as string,
      member: expect.stringMatching(/^serviceAccount:\$\{google_service_account\.Host_/) as string,
    });
    expect(stack.one("google_compute_instance")["depends_on"]).toHaveLength(3);
  });

  test("nobody reads the token but the manager: no token is in the JSON, and only its address is", () => {
    const { text } = registration({ token: { ...token, version: "3" } });
    expect(text).toContain("secret://projects/my-project/secrets/runner-token/versions/3");
    expect(text).not.toMatch(/glrt-\w{6}|secret_data/);
  });
});

describe("overrides", () => {
  test("win over all else, in GitLab's own keys", () => {
    const runner = entry({
      overrides: {
        limit: 3,
        custom_build_dir: { enabled: true },
        docker: { memory: "1g", volumes: null },
        machine: { MaxBuilds: 4, IdleTime: null },
      },
    });
    expect(runner).toMatchObject({ limit: 3, custom_build_dir: { enabled: true }, machine: { MaxBuilds: 4 } });
    expect(runner.docker).toEqual({ image: "alpine:latest", privileged: false, memory: "1g" });
    expect(runner.machine).not.toHaveProperty("IdleTime");
  });

  test("remove a whole table with null", () => {
    expect(entry({ overrides: { docker: null } })).not.toHaveProperty("docker");
  });

  test.each([
    [
      "executor",
      { executor: "docker-machine" },
      /^'executor' must be one of custom, docker, .*, got "docker-machine"$/,
    ],
    ["shell", { shell: "fish" }, /^'shell' must be one of bash, sh, .*, got "fish"$/],
    [
      "pull policy",
      { docker: { pull_policy: "allways" } },
      /^'docker\.pull_policy' must be one of always, if-not-present, never, got "allways"$/,
    ],
    [
      "allowed pull policy",
      { docker: { allowed_pull_policies: ["allways"] } },
      /^'docker\.allowed_pull_policies' must be one of always, if-not-present, never, got "allways"$/,
    ],
    ["cache type", { cache: { Type: "local" } }, /^'cache\.Type' must be one of s3, gcs, azure, got "local"$/],
    [
      "MachineName without %s",
      { machine: { MachineName: "ci" } },
      /^'machine\.MachineName' must contain %s once, in whose place each VM's own part comes, got "ci"$/,
    ],
  ])("are judged like any other: %s", (_, overrides, message) => {
    expect(() => registration({ overrides })).toThrow(message);
  });
});

describe("against the rules", () => {
  test.each([
    ["gitlabUrl", "gitlab.com", "be a URL that begins with https:// or http://"],
    ["cloneUrl", "gitlab.com", "be a URL that begins with https:// or http://"],
    ["requestConcurrency", 0, "be at least 1 (requests at once)"],
    ["outputLimit", 0, "be at least 1 (kB)"],
    ["unhealthyInterval", "1 hour", "be a duration such as 90s, 15m or 168h"],
    ["prepareTimeout", "30", "be a duration such as 90s, 15m or 168h"],
    ["getSourcesTimeout", "5min", "be a duration such as 90s, 15m or 168h"],
  ])("%s: %j", (property, value, must) => {
    expect(() => registration({ [property]: value })).toThrow(
      new Error(`'${property}' must ${must}, got ${JSON.stringify(value)}`),
    );
  });

  test.each([
    ["pull policy", { docker: { pullPolicy: "allways" } }, "'docker.pull_policy' must be one of"],
    ["cache type", { cache: { type: "local" } }, "'cache.Type' must be one of"],
    ["shell", { shell: "fish" }, "'shell' must be one of"],
  ])("unknown %s, from where no compiler looks", (_, props, message) => {
    expect(() => registration(props as Partial<RunnerRegistrationProps>)).toThrow(message);
  });

  test.each([
    ["as the reference", "glrt-verysecret" as unknown as SecretReference, "'token' must be a reference to"],
    ["as the secret's id", { ...token, secretId: "glrt-verysecret" }, "'token.secretId' must be the id of"],
  ])("a token given as plain text, %s, is not repeated", (_, plain, message) => {
    expect(() => registration({ token: plain })).toThrow(message);
    expect(() => registration({ token: plain })).not.toThrow("verysecret");
  });

  test("workers of another project than the host's, in which it may make no VMs", () => {
    expect(() => registration({}, { workers: { project: "other-project" } })).toThrow(
      new Error(
        "'workers' must be of the host's own project, 'my-project', got 'other-project': it may make VMs only there",
      ),
    );
  });

  test("a host that is none", () => {
    expect(() => registration({ host: "Host" as unknown as RunnerHost })).toThrow(
      new Error("'host' must be a RunnerHost, got string"),
    );
  });

  describe("of another stack", () => {
    const stacks = () => {
      const app = Testing.app();
      return [new TerraformStack(app, "ci"), new TerraformStack(app, "other")] as const;
    };

    test("the host", () => {
      const [stack, other] = stacks();
      const host = new RunnerHost(other, "Host", place);
      const workers = new DockerMachineWorkers(stack, "Workers", place);
      expect(
        () => new RunnerRegistration(stack, "Runner", { host, workers, gitlabUrl: "https://gitlab.com", token }),
      ).toThrow(
        new Error(
          "'host' must be of the registration's own stack, 'ci', got 'other/Host': its config.toml is written there",
        ),
      );
    });

    // They would need the host's service account, and the host something of theirs: no order of two stacks has both.
    test.each(["cacheHost", "workers"])("the %s", (property) => {
      const [stack, other] = stacks();
      const at = (name: string) => (name === property ? other : stack);
      const props = {
        host: new RunnerHost(stack, "Host", place),
        workers: new DockerMachineWorkers(at("workers"), "Workers", place),
        cacheHost: new CacheHost(at("cacheHost"), "Cache", place),
      };
      expect(
        () => new RunnerRegistration(stack, "Runner", { ...props, gitlabUrl: "https://gitlab.com", token }),
      ).toThrow(new RegExp(`^'${property}' must be of the registration's own stack, 'ci', got 'other/`));
    });
  });
});

describe("a warning", () => {
  const privileged = (maxBuilds: number) => [
    `'docker.privileged' with 'maxBuilds' ${maxBuilds}: a job is root on its VM and can leave something behind for the next one. ` +
      "GitLab recommends 'maxBuilds' 1 for privileged jobs: https://docs.gitlab.com/runner/security/",
  ];

  test("privileged jobs on a VM that is used again", () => {
    expect(warningsOf({ docker: { privileged: true } }, { workers: { maxBuilds: 5 } })).toEqual(privileged(5));
    expect(warningsOf({ docker: { privileged: true } }, { workers: { maxBuilds: 0 } })).toEqual(privileged(0));
    expect(warningsOf({ docker: { privileged: true } }, { workers: { maxBuilds: 1 } })).toEqual([]);
    expect(warningsOf({}, { workers: { maxBuilds: 5 } })).toEqual([]);
  });

  test("privileged jobs on a VM that is used again, by overrides", () => {
    const workers = { maxBuilds: 5 };
    expect(warningsOf({ overrides: { docker: { privileged: true } } }, { workers })).toEqual(privileged(5));
    expect(warningsOf({ docker: { privileged: true }, overrides: { machine: { MaxBuilds: 1 } } }, { workers })).toEqual(
      [],
    );
  });

  test("docker+machine with GitLab Runner 20", () => {
    const surroundings = { host: { gitlabRunnerVersion: "20.1.0" } };
    expect(warningsOf({}, surroundings)).toEqual([
      "'gitlabRunnerVersion' 20.1.0: GitLab Runner has no docker+machine executor from 20.0 on. Stay below it with this kind of workers.",
    ]);
    expect(warningsOf({}, { host: { gitlabRunnerVersion: "19.12.0" } })).toEqual([]);
  });

  test("none by default, nor for variables", () => {
    expect(warningsOf()).toEqual([]);
    synthesized((stack) => {
      const { numberValue, booleanValue, stringValue } = variable(stack);
      const surroundings = { host: { gitlabRunnerVersion: stringValue }, workers: { maxBuilds: numberValue } };
      expect(warnings(create(stack, { docker: { privileged: booleanValue } }, surroundings))).toEqual([]);
    });
    synthesized((stack) => {
      const surroundings = { workers: { maxBuilds: variable(stack).numberValue } };
      expect(warnings(create(stack, { docker: { privileged: true } }, surroundings))).toEqual([]);
    });
  });
});

describe("a Terraform variable is taken unjudged for", () => {
  const line = (props: (stack: TerraformStack) => object, surroundings?: Surroundings) =>
    toml(
      synthesized((stack) => {
        create(stack, props(stack), surroundings);
      }),
    );

  test.each([
    ["name", "name"],
    ["gitlabUrl", "url"],
    ["cloneUrl", "clone_url"],
    ["buildsDir", "builds_dir"],
    ["unhealthyInterval", "unhealthy_interval"],
    ["shell", "shell"],
  ])("%s", (property, key) => {
    expect(line((stack) => ({ [property]: variable(stack).stringValue }))).toContain(
      `\n${key} = \${jsonencode(var.tuned)}\n`,
    );
  });

  test.each([
    ["requestConcurrency", "request_concurrency"],
    ["outputLimit", "output_limit"],
  ])("%s", (property, key) => {
    expect(line((stack) => ({ [property]: variable(stack).numberValue }))).toContain(
      `\n${key} = \${jsonencode(var.tuned)}\n`,
    );
  });

  test("each part of the token's reference", () => {
    const reference = line((stack) => {
      const [project, secretId, version] = ["a", "b", "c"].map((id) => variable(stack, id).stringValue);
      return { token: { project, secretId, version } };
    });
    expect(reference).toContain(
      '\ntoken = ${jsonencode(join("", ["secret://projects/", var.a, "/secrets/", var.b, "/versions/", var.c]))}\n',
    );
  });

  test("environment", () => {
    expect(line((stack) => ({ environment: variable(stack).listValue }))).toContain(
      "\nenvironment = ${jsonencode(var.tuned)}\n",
    );
  });

  test("docker", () => {
    const docker = line((stack) => {
      const { stringValue: image, booleanValue: privileged, listValue } = variable(stack);
      return { docker: { image, privileged, pullPolicy: image, allowedImages: listValue, volumes: listValue } };
    });
    for (const key of ["image", "privileged", "pull_policy", "allowed_images", "volumes"]) {
      expect(docker).toContain(`\n${key} = \${jsonencode(var.tuned)}\n`);
    }
  });

  test("docker's volumes, with the mirror's besides", () => {
    expect(line((stack) => ({ docker: { volumes: variable(stack).listValue } }), { withCacheHost: true })).toMatch(
      /\nvolumes = \$\{[^\n]*concat\([^\n]*var\.tuned, [^\n]*"\/var\/lib\/gitlab-runner-worker\/etc-docker:[^\n]*\n/,
    );
  });
});

describe("several registrations", () => {
  const two = (build: (stack: TerraformStack, add: (id: string, workers: DockerMachineWorkers) => void) => void) =>
    synthesized((stack) => {
      const host = new RunnerHost(stack, "Host", place);
      const cacheHost = new CacheHost(stack, "Cache", place);
      build(stack, (id, workers) => {
        new RunnerRegistration(stack, id, {
          host,
          workers,
          cacheHost,
          name: id,
          gitlabUrl: "https://gitlab.com",
          token: { ...token, secretId: `token-${id}` },
        });
      });
    });
  const names = (stack: Synthesized) =>
    configToml(stack.one("google_compute_instance", "Host")).runners.map(({ name }) => name);

  test("share a host and a cache host, each with its token and its workers", () => {
    const stack = two((stack, add) => {
      for (const id of ["a", "b"]) {
        add(id, new DockerMachineWorkers(stack, `Workers-${id}`, place));
      }
    });
    expect(names(stack)).toEqual(["a", "b"]);
    expect(stack.all("google_secret_manager_secret_iam_member", "Host")).toHaveLength(3);
    expect(stack.all("google_service_account_iam_member", "Host")).toHaveLength(2);
    expect(stack.one("google_compute_firewall", "Cache_Clients")["source_service_accounts"]).toHaveLength(3);
  });

  test("are all there, also one that is added after the JSON was asked for", () => {
    const stack = new TerraformStack(Testing.app(), "stack");
    const host = new RunnerHost(stack, "Host", place);
    const workers = ["a", "b"].map((id) => new DockerMachineWorkers(stack, `Workers-${id}`, place));
    const json = workers.map((each, index) => {
      const name = `runner-${index}`;
      new RunnerRegistration(stack, name, { host, workers: each, name, gitlabUrl: "https://gitlab.com", token });
      return Testing.synth(stack);
    });
    expect(json.map((text) => [text.includes("runner-0"), text.includes("runner-1")])).toEqual([
      [true, false],
      [true, true],
    ]);
  });

  test("share workers too", () => {
    const stack = two((stack, add) => {
      const workers = new DockerMachineWorkers(stack, "Workers", place);
      ["a", "b"].forEach((id) => add(id, workers));
    });
    expect(names(stack)).toEqual(["a", "b"]);
    expect(stack.all("google_service_account_iam_member", "Host")).toHaveLength(1);
    expect(stack.all("google_compute_firewall", "Workers")).toHaveLength(1);
  });
});
