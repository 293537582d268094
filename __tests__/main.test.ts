import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { App } from "cdktf";
import { DOCKER_REPOSITORY } from "../constructs/package-sources";
import { GITLAB_RUNNER_VERSION, WORKER_IMAGE } from "../constructs/versions";
import { GitlabRunnerStack, GitlabRunnerStackProps } from "../main";
import { configToml, evaluated, ownerLabels, Resource, Synthesized } from "./synthesized";

interface Variable {
  readonly type: string;
  readonly description: string;
  readonly default?: unknown;
  readonly nullable: boolean;
  readonly sensitive?: boolean;
  readonly validation?: { readonly condition: string; readonly error_message: string }[];
}

interface StackJson {
  readonly variable: Record<string, Variable>;
  readonly output: Record<
    string,
    { readonly value: string; readonly description: string; readonly sensitive?: boolean }
  >;
  readonly resource: Synthesized["resources"];
  readonly terraform: {
    readonly required_version: string;
    readonly backend?: unknown;
    readonly required_providers: object;
  };
  readonly check: Record<string, { readonly assert: { readonly condition: string; readonly error_message: string } }>;
}

const folders: string[] = [];
/** The cdk.tf.json that the app writes, in a folder of its own. */
function written(context = {}, props: GitlabRunnerStackProps = {}): string {
  const outdir = mkdtempSync(join(tmpdir(), "gitlab-runner-"));
  folders.push(outdir);
  const app = new App({ outdir, context });
  new GitlabRunnerStack(app, "gitlab-runner", props);
  app.synth();
  return readFileSync(join(outdir, "stacks", "gitlab-runner", "cdk.tf.json"), "utf8");
}
afterAll(() => folders.forEach((folder) => rmSync(folder, { recursive: true })));

const text = written();
const stack = JSON.parse(text) as StackJson;
const one = (type: string, path: string): Resource => {
  const found = Object.entries(stack.resource[type]).filter(([id]) => new RegExp(`^${path}_[0-9A-F]{8}$`).test(id));
  expect(found).toHaveLength(1);
  return found[0][1];
};

const VARIABLES: Record<string, [type: string, defaultValue?: unknown]> = {
  project: ["string"],
  region: ["string", "us-central1"],
  zone: ["string", "us-central1-a"],
  name: ["string", "gitlab-runner"],
  gitlab_url: ["string"],
  runner_token_secret: ["string"],
  concurrent: ["number", 10],
  max_workers: ["number", 10],
  idle_count: ["number", 0],
  idle_time: ["number", 600],
  max_builds: ["number", 10],
  worker_machine_type: ["string", "e2-standard-2"],
  worker_image: ["string", WORKER_IMAGE],
  worker_disk_gb: ["number", 50],
  worker_spot: ["bool", false],
  default_image: ["string", "alpine:latest"],
  privileged: ["bool", false],
  cache_disk_gb: ["number", 100],
  cache_max_age_days: ["number", 14],
  registry_ttl: ["string", "168h"],
  drain_timeout: ["number", 3600],
  gitlab_runner_version: ["string", GITLAB_RUNNER_VERSION],
  monitoring: ["bool", false],
  notification_channels: ["list(string)", []],
  labels: ["map(string)", {}],
};

describe("variables", () => {
  test("are all settings that a platform team tunes, and no others", () => {
    expect(Object.keys(stack.variable).sort()).toEqual(Object.keys(VARIABLES).sort());
  });

  test("project, gitlab_url and runner_token_secret alone have to be set", () => {
    const required = Object.entries(stack.variable).filter(([, variable]) => !("default" in variable));
    expect(required.map(([name]) => name).sort()).toEqual(["gitlab_url", "project", "runner_token_secret"]);
  });

  test.each(Object.keys(VARIABLES))("%s has its type, default, description and validation", (name) => {
    const [type, defaultValue] = VARIABLES[name];
    const variable = stack.variable[name];
    expect(variable).toMatchObject({ type, nullable: false });
    expect(variable.default).toEqual(defaultValue);
    expect(variable.description).toMatch(/^[A-Zh].{10,}\.$|^Most jobs at once\.$/);
    if (type === "bool") {
      expect(variable.validation ?? []).toEqual([]);
      return;
    }
    expect(variable.validation?.length).toBeGreaterThan(0);
    for (const { condition, error_message: message } of variable.validation ?? []) {
      expect(condition).toContain(`var.${name}`);
      expect(message).toMatch(new RegExp(`^'${name}' must .*\\.$|^'${name}' must .*: set both\\.$`));
    }
  });

  test("compared with others: zone and region, idle VMs and their maximum, disk and image", () => {
    const conditions = (name: string) => stack.variable[name].validation?.map(({ condition }) => condition);
    expect(conditions("zone")).toContain('${startswith(var.zone, "${var.region}-")}');
    expect(conditions("idle_count")).toContain("${var.idle_count <= var.max_workers || var.max_workers == 0}");
    expect(conditions("worker_disk_gb")).toContainEqual(
      expect.stringMatching(/^\$\{var\.worker_disk_gb >= \(can\(regex\(.*basename\(var\.worker_image\)/),
    );
  });

  test.each(Object.keys(VARIABLES).filter((name) => !["region"].includes(name)))("%s is used", (name) => {
    expect(JSON.stringify(stack.resource)).toMatch(new RegExp(`var\\.${name}\\b`));
  });

  test("a token given as runner_token_secret is refused, and not printed", () => {
    const [{ condition, error_message: message }] = stack.variable["runner_token_secret"].validation ?? [];
    expect(condition).toContain("glrt-");
    expect(message).not.toContain("var.runner_token_secret");
  });
});

describe("terraform plan warns of", () => {
  test.each([
    ["unbounded_workers", "${var.max_workers != 0}"],
    ["privileged_workers_used_again", "${!var.privileged || var.max_builds == 1}"],
    ["idle_workers", "${var.idle_count == 0}"],
    ["docker_machine_removed", '${tonumber(split(".", var.gitlab_runner_version)[0]) < 20}'],
  ])("%s", (id, condition) => {
    expect(stack.check[id].assert.condition).toBe(condition);
    expect(stack.check[id].assert.error_message).toMatch(/^.{20,}\.$/);
  });

  test("nothing else", () => expect(Object.keys(stack.check)).toHaveLength(4));
});

describe("outputs", () => {
  test("are names, addresses, commands, and what to look at next", () => {
    expect(Object.keys(stack.output).sort()).toEqual([
      "build_cache_endpoint",
      "cache_host",
      "cache_host_internal_address",
      "next_steps",
      "registry_mirror_url",
      "runner_host",
      "runner_host_internal_address",
      "ssh_cache_host",
      "ssh_runner_host",
    ]);
    expect(stack.output).toMatchObject({
      runner_host: { value: "${var.name}-manager" },
      cache_host: { value: "${var.name}-cache" },
      ssh_runner_host: {
        value:
          "gcloud compute ssh ${var.name}-manager --project=${var.project} --zone=${var.zone} --tunnel-through-iap",
      },
    });
    for (const { description } of Object.values(stack.output)) {
      expect(description).toMatch(/\.$/);
    }
  });

  test("hold nothing secret", () => {
    for (const { value, sensitive } of Object.values(stack.output)) {
      expect(sensitive).toBeUndefined();
      expect(value).not.toMatch(/secret|token|key/i);
    }
  });
});

describe("the constructs are wired", () => {
  test("network, cache host, runner host, workers and a runner, in one project and zone", () => {
    expect(one("google_compute_network", "Network").name).toBe("${var.name}");
    for (const [path, name] of [
      ["CacheHost", "cache"],
      ["RunnerHost", "manager"],
    ]) {
      expect(one("google_compute_instance", path)).toMatchObject({
        name: `\${var.name}-${name}`,
        project: "${var.project}",
        zone: "${var.zone}",
        network_interface: [
          expect.objectContaining({
            subnetwork: expect.stringMatching(/^\$\{google_compute_subnetwork\.Network_/) as string,
          }),
        ],
      });
    }
    const runner = configToml(one("google_compute_instance", "RunnerHost")).runners[0];
    expect(runner).toMatchObject({
      name: "jsonencode(var.name)",
      url: "jsonencode(var.gitlab_url)",
      limit: "jsonencode(var.max_workers)",
      docker: { image: "jsonencode(var.default_image)", privileged: "jsonencode(var.privileged)" },
      machine: {
        IdleCount: "jsonencode(var.idle_count)",
        IdleTime: "jsonencode(var.idle_time)",
        MaxBuilds: "jsonencode(var.max_builds)",
      },
      cache: { Type: "s3" },
    });
    expect(runner["token"]).toContain('"secret://projects/", var.project, "/secrets/", var.runner_token_secret');
    expect(String(runner.machine.MachineOptions)).toContain("engine-registry-mirror=http://");
  });

  test("labels are on everything, with the owner's", () => {
    const labels = ownerLabels({ resources: stack.resource });
    expect(labels).toHaveLength(7);
    for (const each of labels) {
      expect(each).toMatch(/^\$\{merge\(var\.labels, \{"gitlab-runner" = (join|format|"\$\{)?.*var\.name/);
    }
  });

  test("no VM has a public address, and nothing is open to the world", () => {
    expect(text).not.toMatch(/access_config|0\.0\.0\.0\/0/);
    expect(Object.keys(stack.resource).filter((type) => /_iam_(binding|policy)$/.test(type))).toEqual([]);
  });

  test("what changes the shape is chosen in code", () => {
    const chosen = JSON.parse(
      written(
        {},
        {
          cacheHost: { dockerRepository: { ...DOCKER_REPOSITORY, url: "https://cache.example" } },
          runnerHost: { machineType: "n2-standard-2" },
          workers: { tags: ["egress"] },
        },
      ),
    ) as StackJson;
    const json = JSON.stringify(chosen.resource);
    expect(json).toContain("https://cache.example");
    expect(json).toContain('"machine_type":"n2-standard-2"');
    expect(json).toContain("google-tags=egress");
  });

  test("a host without the Ops Agent, chosen in code, is not watched", () => {
    const policies = (props: GitlabRunnerStackProps) =>
      Object.keys((JSON.parse(written({}, props)) as StackJson).resource["google_monitoring_alert_policy"] ?? {});
    expect(policies({})).toHaveLength(4);
    expect(policies({ cacheHost: { opsAgent: false } })).toHaveLength(3);
    expect(policies({ runnerHost: { opsAgent: false } })).toEqual([]);
  });
});

describe("the JSON", () => {
  test("is the same bytes whenever and wherever it is written", () => expect(written()).toBe(text));

  test("is written without a word of cdktf about strings that it may have got wrong", () => {
    const warn = jest.spyOn(console, "warn").mockImplementation(() => {});
    written();
    expect(warn.mock.calls).toEqual([]);
    warn.mockRestore();
  });

  test("has no absolute path, and none of a file that is not in it", () => {
    for (const path of [process.cwd(), tmpdir(), "node_modules", "path.module", "file("]) {
      expect(text).not.toContain(path);
    }
  });

  test("has no token, and no secret but its address", () => {
    expect(text).not.toMatch(
      /glrt-[A-Za-z0-9]|glrtr-[A-Za-z0-9]|GR1348941[A-Za-z0-9]|"secret_data|BEGIN [A-Z ]*PRIVATE KEY/,
    );
  });

  test("asks for Terraform 1.11, and for the providers that it was made for", () => {
    expect(stack.terraform.required_version).toBe(">= 1.11");
    expect(stack.terraform.required_providers).toMatchObject({
      google: { source: "google", version: expect.stringMatching(/^\d+\.\d+\.\d+$/) as string },
      null: { version: expect.stringMatching(/^\d+\.\d+\.\d+$/) as string },
    });
  });

  test("has no backend, so that whoever takes it brings an own one", () => {
    expect(stack.terraform).not.toHaveProperty("backend");
  });

  test("has a Cloud Storage backend with the context stateBucket", () => {
    expect((JSON.parse(written({ stateBucket: "my-states" })) as StackJson).terraform.backend).toEqual({
      gcs: { bucket: "my-states", prefix: "gitlab-runner" },
    });
  });

  test("keeps user-data within what Google takes of one metadata value", () => {
    for (const path of ["CacheHost", "RunnerHost"]) {
      for (const value of Object.values(one("google_compute_instance", path).metadata)) {
        expect(Buffer.byteLength(evaluated(value))).toBeLessThan(262_144);
      }
    }
  });
});
