import { runInNewContext } from "node:vm";
import * as rules from "../constructs/rules";
import { resolved, variable } from "./synthesized";

/** Terraform's functions, as far as the conditions use them. */
const terraform = {
  can: (value: boolean) => value,
  regex: (pattern: string, text: string) => new RegExp(pattern).test(text),
  floor: Math.floor,
  trimspace: (text: string) => text.trim(),
};
const verdicts = <T>(rule: rules.Rule<T>, value: T) => ({
  literal: rule.holds(value),
  variable: runInNewContext(rule.condition("value"), { ...terraform, value }) as boolean,
});

const name = (length: number) => "n".repeat(length);

describe.each<[string, rules.Rule<string>, string[], string[]]>([
  [
    "projectId",
    rules.projectId,
    ["my-project", "abcdef", name(30), "example.com:my-project"],
    ["short", name(31), "My-Project", "123456", "1project", "project-", "my project", ""],
  ],
  [
    "region",
    rules.region,
    ["us-central1", "europe-west12", "northamerica-northeast1"],
    ["us-central1-a", "us-central", "US-central1", "eu", "us_central1", ""],
  ],
  [
    "zone",
    rules.zone,
    ["us-central1-a", "europe-west12-b", "us-east1-ai1a"],
    ["us-central1", "us-central1-", "us-central1-A", "us-central1-1", "a", "us-central1-a ", ""],
  ],
  ["resourceName", rules.resourceName, ["a", "a-1", name(63)], ["1a", "a-", "-a", "A", "a_b", "a.b", name(64), ""]],
  ["baseName", rules.baseName, ["ab", "gitlab-runner", name(22)], ["a", "ab-", "1ab", "Ab", name(23), ""]],
  [
    "machineType",
    rules.machineType,
    ["e2-small", "n2d-standard-2", "e2-custom-2-4096", "g1-small"],
    ["e2", "E2-small", "e2-small-", "e2 small", "zones/a/machineTypes/e2-small", ""],
  ],
  ["diskType", rules.diskType, ["pd-ssd", "pd-balanced", "hyperdisk-balanced"], ["ssd", "pd-fast", "local-ssd", ""]],
  [
    "image",
    rules.image,
    [
      "projects/cos-cloud/global/images/family/cos-stable",
      "cos-cloud/global/images/cos-stable-117-1",
      "https://www.googleapis.com/compute/v1/projects/example.com:p/global/images/my-image",
    ],
    ["cos-stable", "cos-cloud/cos-stable", "projects/cos-cloud/global/images/family/", "http://x/global/images/a", ""],
  ],
  [
    "httpUrl",
    rules.httpUrl,
    ["https://gitlab.com", "http://10.0.0.1:8080/path?x#y", "https://gitlab.example/gitlab/"],
    ["gitlab.com", "//gitlab.com", "ftp://gitlab.com", "https://", "https:///path", "https://a b", "https://a/b c", ""],
  ],
  [
    "cidr",
    rules.cidr,
    ["10.0.0.0/8", "0.0.0.0/0", "192.168.255.1/32"],
    ["10.0.0.0", "10.0.0/8", "256.0.0.0/8", "10.0.0.0/33", "::/0", ""],
  ],
  [
    "bucketName",
    rules.bucketName,
    ["abc", "runner", "runner-1", name(63)],
    ["ab", "Runner", "run_ner", "run.ner", "-runner", "runner-", "a/b", "..", name(64), ""],
  ],
  [
    "secretId",
    rules.secretId,
    ["gitlab-runner-token", "A_1", name(255)],
    ["projects/p/secrets/s", "a b", name(256), "glrt-abc", "glrtr-abc", "GR1348941abc", "glpat-abc", ""],
  ],
  ["secretVersion", rules.secretVersion, ["latest", "1", "12"], ["0", "01", "newest", "-1", "1.0", ""]],
  [
    "labelKey",
    rules.labelKey,
    ["team", "cost_center-1", name(63)],
    ["Team", "1team", "-team", "te am", "team.x", name(64), ""],
  ],
  ["labelValue", rules.labelValue, ["", "ci", "1-a_b", name(63)], ["CI", "a b", "a.b", name(64)]],
  [
    "keyFingerprint",
    rules.keyFingerprint,
    ["9DC8 5822 9FC7 DD38 854A  E2D8 8D81 803C 0EBF CD88", "a".repeat(40)],
    ["a".repeat(39), "a".repeat(41), "0EBFCD88", "g".repeat(40), ""],
  ],
  [
    "listenAddress",
    rules.listenAddress,
    ["", ":9252", "127.0.0.1:9252", "localhost:1", "[::1]:65535"],
    ["9252", "127.0.0.1", "::1:9252", "http://127.0.0.1:9252", ":port", "a b:1", ":"],
  ],
  [
    "notificationChannel",
    rules.notificationChannel,
    ["projects/my-project/notificationChannels/123", "projects/42/notificationChannels/a-1"],
    ["123", "me@example.com", "projects/p/notificationChannels/", "projects/p/notificationChannels/1/x", ""],
  ],
  ["sha256", rules.sha256, ["", "0a".repeat(32)], ["0a", "0A".repeat(32), "0a".repeat(33)]],
  ["duration", rules.duration, ["168h", "1h30m", "1.5s", "20ms"], ["168", "1d", "h", "1h 30m", "-1h", ""]],
  ["nonEmpty", rules.nonEmpty, ["alpine:latest"], ["", "  "]],
])("%s", (_, rule, right, wrong) => {
  test.each(right)("accepts %j, as a literal and as a variable", (value) =>
    expect(verdicts(rule, value)).toEqual({ literal: true, variable: true }),
  );
  test.each(wrong)("refuses %j, as a literal and as a variable", (value) =>
    expect(verdicts(rule, value)).toEqual({ literal: false, variable: false }),
  );
  test("uses no pattern that Terraform does not know", () => expect(rule.condition("value")).not.toContain("(?"));
});

describe("integer", () => {
  test.each([
    [1, 3],
    [1, undefined],
    [0, 0],
  ])("from %d to %d, the ends included, and nothing between two numbers", (minimum, maximum) => {
    const rule = rules.integer(minimum, maximum, "things");
    const top = maximum ?? 1_000_000;
    for (const value of [minimum, top]) {
      expect(verdicts(rule, value)).toEqual({ literal: true, variable: true });
    }
    for (const value of [minimum - 1, minimum + 0.5, ...(maximum === undefined ? [] : [maximum + 1])]) {
      expect(verdicts(rule, value)).toEqual({ literal: false, variable: false });
    }
  });

  test("a port is 1 to 65535", () => {
    expect([0, 1, 65535, 65536].map(rules.port.holds.bind(rules.port))).toEqual([false, true, true, false]);
  });
});

test.each([
  ["19.3.0", true],
  ["19.12.1", true],
  ["20.0.0", true],
  ["19.2.9", false],
  ["18.11.0", false],
  ["19.3", false],
  ["v19.3.0", false],
  ["latest", false],
])("GitLab Runner %s can check its configuration: %s", (version, can) => {
  expect(rules.gitlabRunnerVersion.holds(version)).toBe(can);
});

test("notification channels are judged one by one", () => {
  const channel = "projects/my-project/notificationChannels/123";
  expect(rules.notificationChannels.holds([])).toBe(true);
  expect(rules.notificationChannels.holds([channel, channel])).toBe(true);
  expect(rules.notificationChannels.holds([channel, "123"])).toBe(false);
});

test("labels are judged key by key and value by value", () => {
  expect(rules.labels.holds({ team: "ci", "cost-center": "" })).toBe(true);
  expect(rules.labels.holds({ Team: "ci" })).toBe(false);
  expect(rules.labels.holds({ team: "C I" })).toBe(false);
});

describe("check", () => {
  test("says which property, what it must, and what it got", () => {
    expect(() => rules.check(rules.region, "region", "us-central1-a")).toThrow(
      new Error(`'region' must be a Google Cloud region such as us-central1, got "us-central1-a"`),
    );
    expect(() => rules.check(rules.integer(1, 5, "VMs"), "limit", 6)).toThrow(
      new Error("'limit' must be between 1 and 5 (VMs), got 6"),
    );
    expect(() => rules.check(rules.integer(1, undefined, "VMs"), "limit", -1)).toThrow(
      new Error("'limit' must be at least 1 (VMs), got -1"),
    );
  });

  test("never repeats a token", () => {
    expect(() => rules.check(rules.secretId, "secretId", "glrt-verysecret")).toThrow(/^'secretId' must /);
    expect(() => rules.check(rules.secretId, "secretId", "glrt-verysecret")).not.toThrow("verysecret");
  });

  test("leaves what is not given, and what is a variable", () => {
    rules.check(rules.region, "region", undefined);
    resolved((stack) => {
      const tuned = variable(stack);
      rules.check(rules.region, "region", tuned.stringValue);
      rules.check(rules.region, "region", `${tuned.stringValue} and text`);
      rules.check(rules.port, "port", tuned.numberValue);
      return "";
    });
  });
});

describe("validation", () => {
  test("is the rule as Terraform has it", () => {
    expect(rules.validation(rules.integer(0, undefined, "VMs"), "limit")).toEqual({
      condition: "${floor(var.limit) == var.limit && var.limit >= 0}",
      errorMessage: "'limit' must be at least 0 (VMs), got ${jsonencode(var.limit)}.",
    });
    expect(rules.validation(rules.sha256, "sum").condition).toBe('${can(regex("^([0-9a-f]{64})?$", var.sum))}');
    expect(rules.validation(rules.labels, "labels").condition).toMatch(
      /^\$\{alltrue\(\[for key, value in var\.labels : can\(regex\(.*, key\)\) && can\(regex\(.*, value\)\)\]\)\}$/,
    );
  });

  test("never prints a token", () => {
    expect(rules.validation(rules.secretId, "token_secret").errorMessage).not.toContain("var.");
  });
});

test.each(["glrt-a", "glrtr-a", "glpat-a", "gldt-a", "GR1348941a"])("%s looks like a token", (token) =>
  expect(rules.looksLikeToken(token)).toBe(true),
);
test("the id of a secret does not look like a token", () => expect(rules.looksLikeToken("my-glrt-token")).toBe(false));
