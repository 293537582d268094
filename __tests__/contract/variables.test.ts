import { join } from "node:path";
import { describeIf, temporaryFolder } from "./programs";
import { SUBJECTS, synthesize, Values, valuesFor } from "./subjects";
import { parse, providersAvailable, Terraform, Verdict } from "./terraform";

/** Values that a variable of the ready stack does not take, and what its message has to say of what it does take. */
const BAD: [variable: string, remedy: RegExp, ...values: unknown[]][] = [
  ["project", /project id .*not its name or number/, "My Project", "123456789012", "short", "ends-in-", ""],
  ["region", /such as us-central1/, "us-central1-a", "US-CENTRAL1", "somewhere", ""],
  ["zone", /such as us-central1-a/, "us-central1", "us-central1-A", "us_central1_a", ""],
  ["name", /2 to 22 of a-z, 0-9 and -/, "Runner", "1st", "ends-in-", "a", "twenty-three-characters", "under_score", ""],
  [
    "gitlab_url",
    /begins with https:\/\/ or http:\/\//,
    "gitlab.com",
    "ssh://gitlab.com",
    "https://",
    "https://a b",
    "",
  ],
  ["runner_token_secret", /id of a Secret Manager secret/, "projects/p/secrets/s", "a b", ""],
  ["concurrent", /at least 1/, 0, -1, 1.5],
  ["max_workers", /at least 0 .*0 is no limit/, -1, 0.5],
  ["idle_count", /at least 0/, -1, 0.5],
  ["idle_time", /at least 60 \(seconds\)/, 59, 0, -1, 60.5],
  ["max_builds", /at least 0 .*0 is no limit/, -1, 1.5],
  ["worker_machine_type", /such as e2-standard-2/, "e2", "E2-Standard-2", "e2 standard", ""],
  ["worker_image", /such as projects\/cos-cloud\/global\/images\/family/, "cos-stable", "cos-cloud/cos-stable", ""],
  ["worker_disk_gb", /between 10 and 65536/, 9, 65537, 10.5],
  ["default_image", /not be empty/, "", "  "],
  ["cache_disk_gb", /between 10 and 65536/, 9, 65537, 10.5],
  ["cache_max_age_days", /between 1 and 3650/, 0, 3651, 1.5],
  ["drain_timeout", /between 0 and 7200/, -1, 7201, 1.5],
  ["registry_ttl", /duration/, "1", "a week", ""],
  ["gitlab_runner_version", /at least 19\.3\.0/, "19.2.9", "18.11.0", "19.3", "latest", "v19.3.0", ""],
  [
    "notification_channels",
    /be a list of names such as projects\/my-project\/notificationChannels\/123/,
    ["me@example.com"],
    ["projects/p/notificationChannels/1", "123"],
    [""],
  ],
  [
    "labels",
    /1 to 63 .*keys beginning with a letter/,
    { Team: "a" },
    { team: "A" },
    { "1st": "a" },
    { "": "a" },
    { team: "a".repeat(64) },
    { ["a".repeat(64)]: "" },
  ],
];

/** The last values that are still right, on either side. */
const GOOD: Values[] = [
  { project: "abcdef", name: "ab", gitlab_url: "http://g", runner_token_secret: "a" },
  { project: "a".repeat(30), name: "a".repeat(22), gitlab_url: "https://g:8443/x?y#z", runner_token_secret: "_-9" },
  { project: "example.com:project" },
  { region: "northamerica-northeast1", zone: "northamerica-northeast1-a" },
  { concurrent: 1, max_workers: 1, idle_count: 1, idle_time: 60, max_builds: 0, worker_disk_gb: 10 },
  { max_workers: 0, idle_count: 1000 },
  { worker_disk_gb: 65536, cache_disk_gb: 65536, cache_max_age_days: 3650 },
  { cache_disk_gb: 10, cache_max_age_days: 1 },
  { worker_image: "https://www.googleapis.com/compute/v1/projects/debian-cloud/global/images/debian-12" },
  { worker_image: "projects/windows-cloud/global/images/family/windows-2022", worker_disk_gb: 50 },
  { gitlab_runner_version: "19.3.0" },
  { gitlab_runner_version: "19.10.12" },
  { labels: {} },
  { monitoring: true, notification_channels: ["projects/my-project/notificationChannels/123"] },
  { default_image: null }, // the default
  { labels: { ["a".repeat(63)]: "", a: "0-_".repeat(21) } },
];

/** What is right by itself, and wrong beside another variable. */
const CROSS: [values: Values, message: RegExp][] = [
  [{ zone: "europe-west1-b" }, /'zone' must be a zone of 'region' \(us-central1\), got europe-west1-b: set both/],
  [{ region: "us-central2" }, /'zone' must be a zone of 'region' \(us-central2\), got us-central1-a: set both/],
  // Not only the same beginning.
  [{ region: "us-central1", zone: "us-central11-a" }, /'zone' must be a zone of 'region' \(us-central1\)/],
  [{ idle_count: 11 }, /'idle_count' must be at most 'max_workers' \(10 VMs\), got 11/],
  [{ idle_count: 2, max_workers: 1 }, /'idle_count' must be at most 'max_workers' \(1 VMs\), got 2/],
  [
    { worker_image: "projects/windows-cloud/global/images/family/windows-2022", worker_disk_gb: 49 },
    /'worker_disk_gb' must be at least the size of projects\/windows-cloud\/.*, got 49/,
  ],
  [
    { worker_image: "rocky-linux-cloud/global/images/family/rocky-linux-9", worker_disk_gb: 19 },
    /'worker_disk_gb' must be at least the size of rocky-linux-cloud\/.*, got 19/,
  ],
];

const WARNINGS: [values: Values, warning: RegExp][] = [
  [{ privileged: true }, /privileged jobs with max_builds other than 1/],
  [{ privileged: true, max_builds: 0 }, /privileged jobs with max_builds other than 1/],
  [{ max_workers: 0 }, /max_workers is 0: nothing bounds the number/],
  [{ idle_count: 2 }, /idle_count is 2: so many worker VMs are paid for around the clock/],
  [{ gitlab_runner_version: "20.0.0" }, /GitLab Runner 20\.0 has no docker\+machine executor/],
];

describeIf(providersAvailable())("the variables of the ready stack", () => {
  const folder = temporaryFolder();
  const terraform = new Terraform(join(folder, "terraform"));
  let needed: Values;
  let planned: Verdict;

  beforeAll(async () => {
    const configuration = parse(await synthesize("main.ts", join(folder, "cdktf.out")));
    needed = valuesFor(SUBJECTS[0], configuration);
    terraform.write(configuration);
    await terraform.init();
    expect(Object.keys(configuration.variable!).sort()).toEqual(
      [...BAD.map(([variable]) => variable), "worker_spot", "privileged", "monitoring"].sort(),
    );
  });

  const plan = async (values: Values): Promise<void> => {
    terraform.values({ ...needed, ...values });
    planned = await terraform.plan();
  };

  describe.each(BAD)("%s", (variable, remedy, ...values) => {
    test.each(values.map((value) => [value]))("must not be %j: the plan says what it must be", async (value) => {
      await plan({ [variable]: value });
      const message = planned.errors.find((error) => error.includes(`'${variable}' must `));
      expect(message).toMatch(remedy);
      // jsonencode sorts keys, as these are.
      expect(message).toContain(
        variable === "runner_token_secret" ? "the value got is not shown" : `got ${JSON.stringify(value)}.`,
      );
    });
  });

  test("a token in the place of its secret's id is refused, and is in no message", async () => {
    await plan({ runner_token_secret: "glrt-abcdefghijklmnopqrst" });
    expect(planned.errors.join("\n")).toMatch(/'runner_token_secret' must .*not be the token itself/);
    expect(JSON.stringify(planned)).not.toContain("glrt-abc");
  });

  test.each([
    ["concurrent", "many"],
    ["worker_spot", "sometimes"],
    ["labels", "team=a"],
  ])("%s is of its type only, not %j", async (variable, value) => {
    await plan({ [variable]: value });
    expect(planned.errors.join("\n")).toMatch(new RegExp(`var\\.${variable}|"${variable}"`));
  });

  test.each(GOOD)("%j is right", async (values) => {
    await plan(values);
    expect(planned.errors).toEqual([]);
  });

  test.each(CROSS)("%j is refused", async (values, message) => {
    await plan(values);
    expect(planned.errors.join("\n")).toMatch(message);
  });

  test.each(WARNINGS)("%j is planned with a warning", async (values, warning) => {
    await plan(values);
    expect(planned.errors).toEqual([]);
    expect(planned.warnings).toEqual([expect.stringMatching(warning)]);
  });

  test("privileged jobs on VMs of their own are no reason for a warning", async () => {
    await plan({ privileged: true, max_builds: 1 });
    expect(planned).toEqual({ errors: [], warnings: [] });
  });
});
