import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GoogleProvider } from "@cdktf/provider-google/lib/provider";
import { NullProvider } from "@cdktf/provider-null/lib/provider";
import { App, TerraformStack } from "cdktf";
import { RunnerHost, RunnerHostProps } from "../constructs/runner-host";
import { RunnerNetwork } from "../constructs/runner-network";
import { GITLAB_RUNNER_VERSION } from "../constructs/versions";
import { behavesAsHostVm } from "./host-vm-behaviour";
import "./readable-snapshots";
import {
  configToml,
  evaluated,
  networkPaths,
  place,
  resolved,
  Synthesized,
  synthesized,
  variable,
} from "./synthesized";

const create = (stack: TerraformStack, props: Partial<RunnerHostProps> = {}) =>
  new RunnerHost(stack, "Host", { ...place, ...props });
const host = (props: Partial<RunnerHostProps> = {}) =>
  synthesized((stack) => {
    create(stack, props);
  });
const config = (stack: Synthesized) => configToml(stack.one("google_compute_instance"));
const settings = (stack: Synthesized) =>
  (stack.one("null_resource", "Host_Bootstrap")["triggers"] as { settings: string }).settings;

test("default runner host", () => {
  expect(host().resources).toMatchSnapshot();
});

describe("as a host", () => behavesAsHostVm((stack, id, props) => new RunnerHost(stack, id, props)));

describe("rights", () => {
  test("are exactly what docker-machine and the host itself call, in a role of this host", () => {
    const stack = host();
    expect(stack.one("google_project_iam_custom_role")).toMatchObject({
      title: "GitLab Runner manager stack-host",
      permissions: [
        "compute.disks.create",
        "compute.disks.delete",
        "compute.disks.get",
        "compute.disks.setLabels",
        "compute.disks.use",
        "compute.images.useReadOnly",
        "compute.instances.create",
        "compute.instances.delete",
        "compute.instances.get",
        "compute.instances.list",
        "compute.instances.setLabels",
        "compute.instances.setMetadata",
        "compute.instances.setServiceAccount",
        "compute.instances.setTags",
        "compute.instances.start",
        "compute.instances.stop",
        "compute.projects.get",
        "compute.subnetworks.use",
        "compute.zoneOperations.get",
      ],
    });
    expect(stack.one("google_project_iam_member")).toMatchObject({
      role: expect.stringMatching(/^\$\{google_project_iam_custom_role\.Host_Role_\w+\.name\}$/) as string,
      member: expect.stringMatching(
        /^serviceAccount:\$\{google_service_account\.Host_ServiceAccount_\w+\.email\}$/,
      ) as string,
    });
  });

  test("the role's id is new with each deployment: Google keeps that of a deleted one", () => {
    expect(host().one("google_project_iam_custom_role")["role_id"]).toMatch(
      /^gitlabRunner_\$\{substr\(sha256\(join\("", \["stack-host\/", null_resource\.Host_RoleSuffix_\w+\.id\]\)\), 0, 8\)\}$/,
    );
  });

  test("to act as workers, and to read a secret, are given on that one thing, once", () => {
    const stack = synthesized((stack) => {
      const runnerHost = create(stack);
      for (const email of ["workers@x", "others@x", "workers@x"]) {
        runnerHost.grantActAs(email);
      }
      for (const secretId of ["one", "two", "one"]) {
        runnerHost.grantSecretAccess({ project: "secret-project", secretId });
      }
    });
    expect(
      stack.all("google_service_account_iam_member").map(({ role, service_account_id: id }) => [role, id]),
    ).toEqual(
      expect.arrayContaining([
        ["roles/iam.serviceAccountUser", "projects/my-project/serviceAccounts/workers@x"],
        ["roles/iam.serviceAccountUser", "projects/my-project/serviceAccounts/others@x"],
      ]),
    );
    expect(stack.all("google_service_account_iam_member")).toHaveLength(2);
    expect(
      stack
        .all("google_secret_manager_secret_iam_member")
        .map(({ role, project, secret_id }) => [role, project, secret_id])
        .sort(),
    ).toEqual([
      ["roles/secretmanager.secretAccessor", "secret-project", "one"],
      ["roles/secretmanager.secretAccessor", "secret-project", "two"],
    ]);
    expect(stack.one("google_compute_instance")["depends_on"]).toHaveLength(5);
  });
});

describe("before the host goes", () => {
  const drain = (stack: Synthesized) =>
    stack.one("null_resource", "Host_Drain") as unknown as {
      readonly triggers: { readonly [name: string]: string };
      readonly depends_on?: string[];
      readonly provisioner: { readonly "local-exec": Provisioner }[];
    };
  interface Provisioner {
    readonly when?: string;
    readonly environment: { readonly [name: string]: string };
  }

  test("it is drained when Terraform replaces, deletes or stops it, but for nothing else", () => {
    const { triggers } = drain(host({ drainTimeout: 60 }));
    expect(triggers).toEqual({
      project: "my-project",
      zone: "europe-west1-b",
      instance: "stack-host",
      instance_id: expect.stringMatching(/^\$\{google_compute_instance\.Host_\w+\.instance_id\}$/) as string,
      machine_type: expect.stringMatching(/^\$\{google_compute_instance\.Host_\w+\.machine_type\}$/) as string,
      service_account: expect.stringMatching(/^\$\{google_service_account\.Host_\w+\.email\}$/) as string,
      ...networkPaths,
    });
  });

  test("what a destruction runs knows nothing but these", () => {
    const [resume, { "local-exec": destruction }] = drain(host()).provisioner;
    expect(destruction).toMatchObject({
      when: "destroy",
      environment: { WANTED: "drain", INSTANCE: "${self.triggers.instance}", PROJECT: "${self.triggers.project}" },
    });
    expect(destruction.environment["DRAIN"]).not.toMatch(/(?<!\$)\$\{/);
    expect(resume["local-exec"].environment).toMatchObject({ WANTED: "resume", INSTANCE: "stack-host" });
    expect(resume["local-exec"].when).toBeUndefined();
  });

  test("what its last jobs need is still there", () => {
    const stack = synthesized((stack) => {
      const network = new RunnerNetwork(stack, "Network", { project: "my-project", region: "us-central1" });
      create(stack, { network }).usedByJobs(
        new RunnerNetwork(stack, "Used", { project: "my-project", region: "us-central1" }),
      );
    });
    expect(drain(stack).depends_on).toEqual(
      expect.arrayContaining([expect.stringMatching(/^google_compute_router_nat\.Used_Nat_\w+$/)]),
    );
    expect(stack.one("google_compute_instance")["depends_on"]).toEqual(
      expect.arrayContaining([expect.stringMatching(/^google_compute_router_nat\.Network_Nat_\w+$/)]),
    );
  });

  test("jobs have an hour, or what is given, which changes in place", () => {
    expect(host().one("google_compute_instance").metadata["drain-timeout"]).toBe("3600");
    expect(host({ drainTimeout: 60 }).one("google_compute_instance").metadata["drain-timeout"]).toBe("60");
    expect(() => host({ drainTimeout: 7201 })).toThrow("'drainTimeout' must be between 0 and 7200 (seconds), got 7201");
  });
});

describe("the global section of config.toml", () => {
  test("by default", () => {
    expect(config(host())).toEqual({
      concurrent: 10,
      log_format: "json",
      listen_address: "127.0.0.1:9252",
      runners: [],
    });
  });

  test("metrics are for the host itself, and for all of its addresses where somebody is let in", () => {
    const address = (props: Partial<RunnerHostProps>) => config(host(props))["listen_address"];
    expect(address({ metricsClientRanges: [] })).toBe("127.0.0.1:9252");
    expect(address({ metricsClientRanges: ["10.0.0.0/24"] })).toBe(":9252");
    expect(address({ metricsClientRanges: ["10.0.0.0/24"], listenAddress: ":1" })).toBe(":1");
  });

  test("has what is given", () => {
    expect(
      config(
        host({
          concurrent: 4,
          checkInterval: 5,
          logLevel: "debug",
          logFormat: "text",
          listenAddress: "127.0.0.1:9999",
          shutdownTimeout: 60,
          connectionMaxAge: "20m",
          sentryDsn: "https://sentry.example/1",
        }),
      ),
    ).toEqual({
      concurrent: 4,
      check_interval: 5,
      log_level: "debug",
      log_format: "text",
      listen_address: "127.0.0.1:9999",
      shutdown_timeout: 60,
      connection_max_age: "20m",
      sentry_dsn: "https://sentry.example/1",
      runners: [],
    });
  });

  test("takes any other key by overrides, and leaves out what is null there", () => {
    expect(config(host({ overrides: { labels: { a: "b" }, log_format: null, concurrent: 3 } }))).toEqual({
      concurrent: 3,
      listen_address: "127.0.0.1:9252",
      labels: { a: "b" },
      runners: [],
    });
  });

  test("is not in user-data: what is tuned there leaves the VM alone", () => {
    const [before, after] = [host(), host({ concurrent: 99, logLevel: "debug", overrides: { listen_address: ":1" } })];
    expect(after.one("google_compute_instance").metadata["user-data"]).toBe(
      before.one("google_compute_instance").metadata["user-data"],
    );
    expect(settings(after)).toBe(settings(before));
  });
});

describe("the port of the metrics that is opened", () => {
  const ports = (props: Partial<RunnerHostProps>) =>
    host({ ...props, metricsClientRanges: ["10.0.0.0/8"] })
      .all("google_compute_firewall", "Host_Metrics")
      .map(({ allow }) => allow);

  test.each<[string, Partial<RunnerHostProps>, string]>([
    ["by default", {}, "9252"],
    ["of a listenAddress", { listenAddress: "10.0.0.2:9999" }, "9999"],
    ["of overrides", { overrides: { listen_address: ":1234" } }, "1234"],
  ])("is that %s", (_, props, port) => {
    expect(ports(props)).toEqual([[{ protocol: "tcp", ports: [port] }]]);
  });

  test("is GitLab Runner's own if a variable has it", () => {
    const { text } = synthesized((stack) => {
      create(stack, { listenAddress: variable(stack).stringValue, metricsClientRanges: ["10.0.0.0/8"] });
    });
    expect(text).toMatch(/"ports": \[\s*"9252"\s*\]/);
  });

  test.each<[string, Partial<RunnerHostProps>]>([
    ["with an empty listenAddress", { listenAddress: "" }],
    ["with one that overrides remove", { overrides: { listen_address: null } }],
  ])("is none %s", (_, props) => {
    expect(ports(props)).toEqual([]);
  });
});

describe("package sources", () => {
  test("are GitLab's, Docker's and the pinned versions, runner and helper images alike", () => {
    expect(JSON.parse(evaluated(settings(host())))).toMatchObject({
      docker: { url: "https://download.docker.com/linux/ubuntu" },
      gitlabRunner: {
        url: "https://packages.gitlab.com/runner/gitlab-runner/ubuntu",
        packages: [
          `gitlab-runner=${GITLAB_RUNNER_VERSION}-1`,
          `gitlab-runner-helper-images=${GITLAB_RUNNER_VERSION}-1`,
        ],
      },
      dockerMachine: { sha256: "" },
      managerIdentity: "my-project/europe-west1-b/stack-host",
    });
  });

  test("are replaced by mirrors, and the version by another", () => {
    const repository = {
      url: "https://apt.example",
      keyUrl: "https://apt.example/key",
      keyFingerprint: "A".repeat(40),
      component: "main",
    };
    const stack = host({
      gitlabRunnerVersion: "19.4.1",
      gitlabRunnerRepository: { ...repository, suite: "noble" },
      dockerRepository: repository,
      dockerPackages: ["docker-ce=5:29.1.0-1~*"],
      dockerMachine: { url: "https://files.example/docker-machine", sha256: "0a".repeat(32) },
    });
    const replaced = {
      docker: { url: "https://apt.example", suite: "$CODENAME", packages: ["docker-ce=5:29.1.0-1~*"] },
      gitlabRunner: {
        url: "https://apt.example",
        suite: "noble",
        packages: ["gitlab-runner=19.4.1-1", "gitlab-runner-helper-images=19.4.1-1"],
      },
      dockerMachine: { url: "https://files.example/docker-machine", sha256: "0a".repeat(32) },
    };
    expect(JSON.parse(evaluated(settings(stack)))).toMatchObject(replaced);
  });
});

describe("against the rules", () => {
  test.each([
    ["concurrent", 0, "be at least 1 (jobs at once)"],
    ["checkInterval", -1, "be at least 0 (seconds)"],
    ["shutdownTimeout", 601, "be between 1 and 600 (seconds)"],
    ["connectionMaxAge", "15", "be a duration such as 90s, 15m or 168h"],
    [
      "gitlabRunnerVersion",
      "19.2.0",
      "be a GitLab Runner version of at least 19.3.0, as in 19.3.0 (older ones cannot check their config.toml)",
    ],
  ])("%s: %j", (property, value, must) => {
    expect(() => host({ [property]: value })).toThrow(
      new Error(`'${property}' must ${must}, got ${JSON.stringify(value)}`),
    );
  });

  test("gitlabRunnerRepository and dockerMachine", () => {
    const gitlabRunnerRepository = { url: "apt", keyUrl: "https://k", keyFingerprint: "A".repeat(40), component: "c" };
    expect(() => host({ gitlabRunnerRepository })).toThrow(
      new Error(`'gitlabRunnerRepository.url' must be a URL that begins with https:// or http://, got "apt"`),
    );
    expect(() => host({ dockerMachine: { url: "https://a", sha256: "x" } })).toThrow(
      new Error(`'dockerMachine.sha256' must be a SHA-256 checksum of 64 hexadecimal digits, got "x"`),
    );
  });

  test("empty registrations: app.synth() fails before any JSON is written", () => {
    const outdir = mkdtempSync(join(tmpdir(), "no-registration-"));
    try {
      const app = new App({ outdir });
      const stack = new TerraformStack(app, "ci");
      new GoogleProvider(stack, "google");
      new NullProvider(stack, "null");
      create(stack);
      expect(() => app.synth()).toThrow(
        "[ci/Host] no RunnerRegistration is attached to this host: GitLab Runner would ask nobody for jobs. Create one with this 'host'",
      );
      expect(existsSync(join(outdir, "stacks", "ci", "cdk.tf.json"))).toBe(false);
    } finally {
      rmSync(outdir, { recursive: true });
    }
  });
});

describe("a Terraform variable is taken unjudged for", () => {
  test.each(["concurrent", "checkInterval", "shutdownTimeout"])("%s", (property) => {
    const toml = synthesized((stack) => {
      create(stack, { [property]: variable(stack).numberValue });
    }).one("google_compute_instance").metadata["config-toml"];
    expect(toml).toMatch(/^[a-z_]+ = \$\{jsonencode\(var\.tuned\)\}$/m);
  });

  test.each(["logLevel", "logFormat", "connectionMaxAge", "sentryDsn"])("%s", (property) => {
    const toml = synthesized((stack) => {
      create(stack, { [property]: variable(stack).stringValue });
    }).one("google_compute_instance").metadata["config-toml"];
    expect(toml).toMatch(/^[a-z_]+ = \$\{jsonencode\(var\.tuned\)\}$/m);
  });

  test("gitlabRunnerVersion", () => {
    const stack = synthesized((stack) => {
      create(stack, { gitlabRunnerVersion: variable(stack).stringValue });
    });
    expect(settings(stack)).toContain('${jsonencode(join("", ["gitlab-runner=", var.tuned, "-1"]))}');
  });
});

test("tells its version", () => {
  expect(resolved((stack) => create(stack).gitlabRunnerVersion)).toBe(GITLAB_RUNNER_VERSION);
});
