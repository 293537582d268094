import { TerraformStack, Token } from "cdktf";
import { DockerMachineWorkers, DockerMachineWorkersProps } from "../constructs/docker-machine-workers";
import { renderConfigToml, runnerTable } from "../constructs/runner-config";
import { WORKER_IMAGE } from "../constructs/versions";
import "./readable-snapshots";
import { networkPaths, place, resolved, synthesized, uniqueNames, variable, warnings } from "./synthesized";

const manager = {
  path: "stack/Host",
  name: "stack-host",
  serviceAccountEmail: "host@my-project.iam.gserviceaccount.com",
};
const create = (stack: TerraformStack, props: Partial<DockerMachineWorkersProps> = {}) =>
  new DockerMachineWorkers(stack, "Workers", { ...place, ...props });
const workers = (props: Partial<DockerMachineWorkersProps> = {}, attached = manager) =>
  synthesized((stack) => {
    create(stack, props).attach(attached);
  });
/** What these workers put into a `[[runners]]` entry. */
function entry(props: Partial<DockerMachineWorkersProps> = {}) {
  let config: unknown;
  synthesized((stack) => {
    config = create(stack, { serviceAccountEmail: "workers@x", ...props }).attach(manager);
  });
  return config;
}
function warningsOf(props: Partial<DockerMachineWorkersProps>): string[] {
  let found: string[] = [];
  synthesized((stack) => {
    found = warnings(create(stack, props));
  });
  return found;
}

test("default workers of one manager", () => {
  expect(workers().resources).toMatchSnapshot();
});

test("by default: ten jobs a VM, none idle, at most ten VMs", () => {
  expect(entry()).toEqual({
    executor: "docker+machine",
    limit: 10,
    removedIn: 20,
    machine: {
      idleCount: 0,
      idleTime: 600,
      maxBuilds: 10,
      machineDriver: "google",
      machineName: "%s",
      machineOptions: expect.arrayContaining([
        "google-machine-type=e2-standard-2",
        "google-machine-image=cos-cloud/global/images/family/cos-stable",
        "google-disk-size=50",
        "google-disk-type=pd-balanced",
        "google-username=docker-user",
        "google-metadata=manager-timeout=1800",
        "google-metadata=docker-high-water=80",
        "google-scopes=https://www.googleapis.com/auth/logging.write,https://www.googleapis.com/auth/monitoring.write",
        "google-label=gitlab-runner-manager:stack-host",
      ]) as string[],
    },
  });
});

test("every property reaches its place", () => {
  const autoscaling = [{ periods: ["* * 9-17 * * mon-fri *"], timezone: "Europe/Berlin", idleCount: 5 }];
  expect(
    entry({
      machineType: "n2-standard-4",
      image: "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64",
      diskGb: 80,
      diskType: "pd-ssd",
      spot: true,
      limit: 20,
      idleCount: 2,
      idleScaleFactor: 1.5,
      idleCountMin: 1,
      idleTime: 1200,
      maxBuilds: 7,
      maxGrowthRate: 3,
      machineName: "ci-%s",
      autoscaling,
      labels: { team: "ci" },
      tags: ["egress"],
      scopes: ["https://scope"],
      username: "cos",
      managerTimeout: 600,
      dockerHighWaterPercent: 70,
      machineOptions: ["engine-opt=mtu=1460"],
    }),
  ).toEqual({
    executor: "docker+machine",
    limit: 20,
    removedIn: 20,
    machine: {
      idleCount: 2,
      idleScaleFactor: 1.5,
      idleCountMin: 1,
      idleTime: 1200,
      maxBuilds: 7,
      maxGrowthRate: 3,
      machineDriver: "google",
      machineName: "ci-%s",
      autoscaling,
      machineOptions: expect.arrayContaining([
        "google-machine-type=n2-standard-4",
        "google-machine-image=ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64",
        "google-disk-size=80",
        "google-disk-type=pd-ssd",
        "google-preemptible",
        "google-label=team:ci",
        "google-tags=egress",
        "google-scopes=https://scope",
        "google-username=cos",
        "google-metadata=manager-timeout=600",
        "google-metadata=docker-high-water=70",
        "engine-opt=mtu=1460",
      ]) as string[],
    },
  });
});

describe("the workers' service account", () => {
  test("has no role at all", () => {
    const stack = workers();
    expect(stack.one("google_service_account")).toMatchObject({ account_id: "stack-workers" });
    expect(Object.keys(stack.resources).filter((type) => type.includes("_iam_"))).toEqual([]);
  });

  test("is the one that is given", () => {
    const stack = workers({ serviceAccountEmail: "mine@x" });
    expect(stack.all("google_service_account")).toEqual([]);
    expect(stack.one("google_compute_firewall")).toMatchObject({ target_service_accounts: ["mine@x"] });
    expect(JSON.stringify(entry({ serviceAccountEmail: "mine@x" }))).toContain("google-service-account=mine@x");
  });
});

describe("the firewall", () => {
  test("lets the manager in, by SSH and Docker, and nobody else", () => {
    expect(workers().one("google_compute_firewall")).toMatchObject({
      project: "my-project",
      network: networkPaths.network,
      source_service_accounts: ["host@my-project.iam.gserviceaccount.com"],
      target_service_accounts: [expect.stringMatching(/^\$\{google_service_account\.Workers_ServiceAccount_/)],
      allow: [{ protocol: "tcp", ports: ["22", "2376"] }],
    });
    expect(workers().one("google_compute_firewall")).not.toHaveProperty("source_ranges");
  });

  test("is in the project of a shared network", () => {
    const network = { ...place.network, project: "network-project" };
    expect(workers({ network }).one("google_compute_firewall")).toMatchObject({ project: "network-project" });
  });

  test("has a rule for each manager, of another name", () => {
    const names = uniqueNames(
      synthesized((stack) => {
        const shared = create(stack);
        shared.attach(manager);
        shared.attach({ ...manager, path: "stack/Other" });
      }),
    ).filter((name) => name.startsWith("google_compute_firewall "));
    expect(new Set(names).size).toBe(2);
  });

  test("has one rule for a manager with several runners of these workers", () => {
    const stack = synthesized((stack) => {
      const shared = create(stack);
      shared.attach(manager);
      shared.attach(manager);
    });
    expect(stack.all("google_compute_firewall")).toHaveLength(1);
  });
});

describe("against the rules", () => {
  const vms = "be at least 0 (VMs)";
  const unlimited = "be at least 0 (VMs; 0 is no limit)";

  test.each([
    [
      "project",
      "P",
      "be a Google Cloud project id (6 to 30 of a-z, 0-9 and -, beginning with a letter), not its name or number",
    ],
    ["zone", "europe-west1", "be a Google Cloud zone such as us-central1-a"],
    [
      "name",
      "n".repeat(64),
      "be a Google Cloud resource name (1 to 63 of a-z, 0-9 and -, beginning with a letter, not ending in -)",
    ],
    ["machineType", "large", "be a machine type such as e2-standard-2"],
    ["image", "cos-stable", "be an image such as projects/cos-cloud/global/images/family/cos-stable"],
    ["diskType", "ssd", "be a disk type: pd-standard, pd-balanced, pd-ssd, pd-extreme or hyperdisk-…"],
    ["limit", -1, unlimited],
    ["idleCount", -1, vms],
    ["idleCountMin", 0.5, vms],
    ["idleTime", 59, "be at least 60 (seconds)"],
    ["maxBuilds", -1, "be at least 0 (jobs a VM; 0 is no limit)"],
    ["maxGrowthRate", -1, unlimited],
    ["managerTimeout", 59, "be between 60 and 86400 (seconds)"],
    ["managerTimeout", 86401, "be between 60 and 86400 (seconds)"],
    ["dockerHighWaterPercent", 49, "be between 50 and 95 (percent)"],
    ["dockerHighWaterPercent", 96, "be between 50 and 95 (percent)"],
    ["idleScaleFactor", -0.5, "be at least 0 (VMs to keep ready for each one in use)"],
    ["idleScaleFactor", NaN, "be at least 0 (VMs to keep ready for each one in use)"],
  ])("%s: %j", (property, value, must) => {
    expect(() => workers({ [property]: value })).toThrow(
      new Error(`'${property}' must ${must}, got ${typeof value === "number" ? value : JSON.stringify(value)}`),
    );
  });

  test("tags: not a network tag", () => {
    expect(() => workers({ tags: ["ci", "CI"] })).toThrow(/^'tags' must be a Google Cloud resource name .*, got "CI"$/);
  });

  test("name: so long that a name made from it has over 63 characters", () => {
    expect(() => workers({ name: "n".repeat(60) })).toThrow(/^'name' must .*, got "n{60}"$/);
  });

  test("diskGb: below what the image needs", () => {
    expect(() => workers({ diskGb: 9 })).toThrow(
      new Error(`'diskGb' must be between 10 and 65536 (GB, the size of ${WORKER_IMAGE} and up), got 9`),
    );
    const image = "projects/rocky-linux-cloud/global/images/family/rocky-linux-9";
    expect(() => workers({ image, diskGb: 19 })).toThrow(
      new Error(`'diskGb' must be between 20 and 65536 (GB, the size of ${image} and up), got 19`),
    );
    workers({ image, diskGb: 20 });
  });

  test("diskGb: below what any image needs, when the image is a variable that has no text to show", () => {
    const build = () =>
      synthesized((stack) => {
        create(stack, { image: variable(stack).stringValue, diskGb: 9 });
      });
    expect(build).toThrow(/^'diskGb' must be between 10 and 65536 .*, got 9$/);
    expect(build).not.toThrow("TfToken");
  });

  test("labels: a bad key", () => {
    expect(() => workers({ labels: { Team: "ci" } })).toThrow(
      new Error(`'labels' must be a label key (1 to 63 of a-z, 0-9, _ and -, beginning with a letter), got "Team"`),
    );
  });

  test("idle VMs: more than the limit", () => {
    expect(() => workers({ limit: 5, idleCount: 6 })).toThrow(
      new Error("'idleCount' must be at most 'limit' (5 VMs), got 6"),
    );
    expect(() => workers({ idleCount: 11 })).toThrow(new Error("'idleCount' must be at most 'limit' (10 VMs), got 11"));
    workers({ limit: 5, idleCount: 5 });
    workers({ limit: 0, idleCount: 500 });
  });

  test.each([
    ["ci", "without %s"],
    ["%s-%s", "with %s twice"],
  ])("machineName %j: %s", (machineName) => {
    expect(() => workers({ machineName })).toThrow(
      new Error(
        `'machineName' must contain %s once, in whose place each VM's own part comes, got ${JSON.stringify(machineName)}`,
      ),
    );
  });

  test.each([
    [`${"c".repeat(23)}%s`, "longer than a disk's name leaves room for"],
    ["CI-%s", "capitals"],
    ["ci_%s", "another character"],
    ["%s-", "a - at the end"],
  ])("machineName %j: %s", (machineName) => {
    expect(() => workers({ machineName })).toThrow(
      new Error(
        "'machineName' must have at most 22 of a-z, 0-9 and - besides %s and not end in - (with what is added to it a disk's name " +
          `has to fit Google's 63 characters), got ${JSON.stringify(machineName)}`,
      ),
    );
  });

  test("machineName: 22 characters still fit", () => {
    workers({ machineName: `${"c".repeat(22)}%s` });
  });

  describe("autoscaling", () => {
    const always = ["* * * * * * *"];

    test.each([
      ["no period", { periods: [] }, "'autoscaling[1].periods' must have at least one period, got []"],
      [
        "a bad cron period",
        { periods: ["* * 9-17 * * mon-fri"] },
        "'autoscaling[1].periods' must be a period of seven fields",
      ],
      [
        "an unknown time zone",
        { periods: always, timezone: "Mars/Olympus" },
        "'autoscaling[1].timezone' must be an IANA time zone such as Asia/Jakarta, UTC or Local, got \"Mars/Olympus\"",
      ],
      ["idleCount below 0", { periods: always, idleCount: -1 }, `'autoscaling[1].idleCount' must ${vms}, got -1`],
      [
        "idleCountMin below 0",
        { periods: always, idleCountMin: -1 },
        `'autoscaling[1].idleCountMin' must ${vms}, got -1`,
      ],
      [
        "idleTime below 0",
        { periods: always, idleTime: -1 },
        "'autoscaling[1].idleTime' must be at least 0 (seconds), got -1",
      ],
      [
        "idleScaleFactor below 0",
        { periods: always, idleScaleFactor: -1 },
        "'autoscaling[1].idleScaleFactor' must be at least 0 (VMs to keep ready for each one in use), got -1",
      ],
      [
        "more idle VMs than the limit",
        { periods: always, idleCount: 11 },
        "'autoscaling[1].idleCount' must be at most 'limit' (10 VMs), got 11",
      ],
    ])("%s", (_, wrong, message) => {
      expect(() => workers({ autoscaling: [{ periods: always }, wrong] })).toThrow(message);
    });
  });
});

describe("a warning", () => {
  test("no limit: nothing bounds the bill", () => {
    expect(warningsOf({ limit: 0 })).toEqual([
      "'limit' is 0: nothing bounds the number of VMs, nor the bill. Set the most VMs that you want to pay for.",
    ]);
  });

  test("an image family that is end of life", () => {
    const image = "projects/ubuntu-os-cloud/global/images/family/ubuntu-1804-lts";
    expect(warningsOf({ image })).toEqual([
      `'image' is ${image}: that family gets no security updates any more. Choose a newer one.`,
    ]);
  });

  test("idle VMs around the clock", () => {
    const warning = [
      "'idleCount' is 3 at all times: so many VMs are paid for around the clock. Lower it with 'autoscaling' for nights and weekends.",
    ];
    const periods = ["* * * * * sat,sun *"];
    expect(warningsOf({ idleCount: 3 })).toEqual(warning);
    expect(warningsOf({ idleCount: 3, autoscaling: [{ periods, idleCount: 1 }] })).toEqual(warning);
    expect(warningsOf({ idleCount: 3, autoscaling: [{ periods }] })).toEqual([]);
  });

  test("none by default, nor for variables", () => {
    expect(warningsOf({})).toEqual([]);
    synthesized((stack) => {
      const { numberValue, stringValue } = variable(stack);
      expect(warnings(create(stack, { limit: numberValue, idleCount: numberValue, image: stringValue }))).toEqual([]);
    });
  });
});

describe("a Terraform variable is taken unjudged for", () => {
  const rendered = (props: (stack: TerraformStack) => object) =>
    resolved((stack) => {
      const { limit, machine } = create(stack, props(stack)).attach(manager);
      return renderConfigToml({}, [runnerTable({ limit, machine })]);
    });

  test.each(["project", "zone", "machineType", "image", "diskType", "machineName", "username", "serviceAccountEmail"])(
    "%s",
    (property) => expect(rendered((stack) => ({ [property]: variable(stack).stringValue }))).toContain("var.tuned"),
  );

  test.each(["limit", "idleCount", "idleCountMin", "idleTime", "maxBuilds", "maxGrowthRate"])("%s", (property) =>
    expect(rendered((stack) => ({ [property]: variable(stack).numberValue }))).toContain(
      "= ${jsonencode(var.tuned)}\n",
    ),
  );

  test.each([
    ["diskGb", '"google-disk-size=", var.tuned'],
    ["managerTimeout", '"google-metadata=manager-timeout=", var.tuned'],
    ["dockerHighWaterPercent", '"google-metadata=docker-high-water=", var.tuned'],
    ["idleScaleFactor", 'IdleScaleFactor = ${format("%f", var.tuned)}\n'],
  ])("%s", (property, expression) =>
    expect(rendered((stack) => ({ [property]: variable(stack).numberValue }))).toContain(expression),
  );

  test("spot and labels", () => {
    expect(rendered((stack) => ({ spot: variable(stack).booleanValue }))).toContain('"google-preemptible=", var.tuned');
    expect(rendered((stack) => ({ labels: Token.asStringMap(variable(stack).value) }))).toContain("keys(var.tuned)");
  });

  test("name", () => {
    const stack = synthesized((stack) => {
      create(stack, { name: variable(stack).stringValue }).attach(manager);
    });
    expect(stack.one("google_service_account")).toMatchObject({ account_id: "${var.tuned}" });
    expect(stack.one("google_compute_firewall").name).toMatch(/^\$\{var\.tuned\}-[0-9a-f]{6}$/);
  });

  test("each value of a schedule", () => {
    const toml = rendered((stack) => {
      const { numberValue, stringValue } = variable(stack);
      const numbers = { idleCount: numberValue, idleCountMin: numberValue, idleTime: numberValue };
      return { autoscaling: [{ periods: [stringValue], timezone: stringValue, ...numbers }] };
    });
    for (const line of [
      "Periods = [ ${jsonencode(var.tuned)} ]",
      ...["Timezone", "IdleCount", "IdleCountMin", "IdleTime"].map((key) => `${key} = \${jsonencode(var.tuned)}`),
    ]) {
      expect(toml).toContain(`\n${line}\n`);
    }
  });

  test("the list of a schedule's periods", () => {
    expect(rendered((stack) => ({ autoscaling: [{ periods: variable(stack).listValue }] }))).toContain(
      "Periods = ${jsonencode(var.tuned)}\n",
    );
  });
});

test("two in one stack, of one manager, do not collide", () => {
  const names = uniqueNames(
    synthesized((stack) => {
      for (const id of ["One", "Two"]) {
        new DockerMachineWorkers(stack, id, place).attach(manager);
      }
    }),
  );
  expect(names).toHaveLength(4);
  expect(new Set(names).size).toBe(4);
});
