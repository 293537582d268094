import { TerraformVariableValidationConfig, Token } from "cdktf";

/**
 * A rule that a value has to follow. It is written once and judged twice: at synth time for a literal, by Terraform for a
 * variable.
 */
export interface Rule<T> {
  /** What the value must do, as in "'zone' must …". */
  readonly must: string;
  /** Whether a literal follows the rule. */
  holds(value: T): boolean;
  /** The same as a Terraform expression about what `reference` refers to. */
  condition(reference: string): string;
  /** Whether somebody may put a secret there by mistake: then no message repeats the value. */
  readonly mayBeSecret?: boolean;
}

/** Throws, with the property, the value got and what to do, when a literal breaks the rule. A token is Terraform's to judge. */
export function check<T>(rule: Rule<T>, property: string, value: T | undefined): void {
  if (value !== undefined && !Token.isUnresolved(value) && !rule.holds(value)) {
    const got = rule.mayBeSecret && looksLikeToken(String(value)) ? "a token (not shown)" : JSON.stringify(value);
    throw new Error(`'${property}' must ${rule.must}, got ${got}`);
  }
}

/** The rule as the validation of a Terraform variable. */
export function validation<T>(rule: Rule<T>, variable: string): TerraformVariableValidationConfig {
  const got = rule.mayBeSecret ? "the value got is not shown" : `got \${jsonencode(var.${variable})}`;
  return {
    condition: `\${${rule.condition(`var.${variable}`)}}`,
    errorMessage: `'${variable}' must ${rule.must}, ${got}.`,
  };
}

/** Patterns are read by JavaScript and by Terraform (RE2): no look-around. */
function pattern(source: string, must: string): Rule<string> {
  const regExp = new RegExp(source);
  return {
    must,
    holds: (value) => typeof value === "string" && regExp.test(value),
    condition: (reference) => `can(regex(${JSON.stringify(source)}, ${reference}))`,
  };
}

/** A whole number between `minimum` and `maximum`. */
export function integer(minimum: number, maximum: number | undefined, unit: string): Rule<number> {
  const range = maximum === undefined ? `at least ${minimum}` : `between ${minimum} and ${maximum}`;
  return {
    must: `be ${range} (${unit})`,
    holds: (value) => Number.isInteger(value) && value >= minimum && (maximum === undefined || value <= maximum),
    condition: (reference) =>
      [`floor(${reference}) == ${reference}`, `${reference} >= ${minimum}`]
        .concat(maximum === undefined ? [] : [`${reference} <= ${maximum}`])
        .join(" && "),
  };
}

function both<T>(first: Rule<T>, second: Rule<T>): Rule<T> {
  return {
    must: `${first.must} and ${second.must}`,
    holds: (value) => first.holds(value) && second.holds(value),
    condition: (reference) => `${first.condition(reference)} && ${second.condition(reference)}`,
  };
}

/** https://cloud.google.com/resource-manager/docs/creating-managing-projects */
export const projectId = pattern(
  "^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$",
  "be a Google Cloud project id (6 to 30 of a-z, 0-9 and -, beginning with a letter), not its name or number",
);

/** https://cloud.google.com/compute/docs/regions-zones */
export const region = pattern("^[a-z]+-[a-z]+[0-9]+$", "be a Google Cloud region such as us-central1");

/** https://cloud.google.com/compute/docs/regions-zones */
export const zone = pattern("^[a-z]+-[a-z]+[0-9]+-[a-z][a-z0-9]*$", "be a Google Cloud zone such as us-central1-a");

/** https://cloud.google.com/compute/docs/naming-resources */
export const resourceName = pattern(
  "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$",
  "be a Google Cloud resource name (1 to 63 of a-z, 0-9 and -, beginning with a letter, not ending in -)",
);

/** A name that others are made from, with suffixes such as "-clients". */
export const nameWithRoom = pattern(
  "^.{1,55}$",
  "have at most 55 characters: names with a suffix are made from it, and Google's end at 63",
);

/** A name that leaves room for the longest suffix, "-manager", in a service account's id of 6 to 30 characters. */
export const baseName = pattern(
  "^[a-z]([-a-z0-9]{0,20}[a-z0-9])$",
  "be 2 to 22 of a-z, 0-9 and -, beginning with a letter, not ending in - (names of VMs and service accounts are made from it)",
);

/** https://cloud.google.com/compute/docs/machine-resource */
export const machineType = pattern("^[a-z][a-z0-9]*-[a-z0-9-]*[a-z0-9]$", "be a machine type such as e2-standard-2");

export const diskType = pattern(
  "^(pd-standard|pd-balanced|pd-ssd|pd-extreme|hyperdisk-[a-z-]+)$",
  "be a disk type: pd-standard, pd-balanced, pd-ssd, pd-extreme or hyperdisk-…",
);

/** An image or image family, as its self link without the host or as `project/global/images/…`. */
export const image = pattern(
  "^(https://www[.]googleapis[.]com/compute/v1/)?(projects/)?[a-z0-9.:-]+/global/images/(family/)?[a-z][-a-z0-9]*$",
  "be an image such as projects/cos-cloud/global/images/family/cos-stable",
);

export const httpUrl = pattern("^https?://[^\\s/?#]+([/?#][^\\s]*)?$", "be a URL that begins with https:// or http://");

export const cidr = pattern(
  "^(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])([.](25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}/(3[0-2]|[12]?[0-9])$",
  "be an IPv4 range such as 10.0.0.0/8",
);

export const port = integer(1, 65535, "a TCP port");

/** The bucket is a folder of the cache host and a bucket of its S3 server. https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html */
export const bucketName = pattern(
  "^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$",
  "be a bucket name (3 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit)",
);

/** https://cloud.google.com/secret-manager/docs/creating-and-accessing-secrets; a token in its place would be published. */
export const secretId: Rule<string> = {
  ...both(
    pattern("^[A-Za-z0-9_-]{1,255}$", "be the id of a Secret Manager secret (1 to 255 of letters, digits, _ and -)"),
    {
      must: "not be the token itself: store that with `gcloud secrets create`",
      holds: (value) => !looksLikeToken(value),
      condition: (reference) => `!can(regex(${JSON.stringify(TOKEN_PREFIX)}, ${reference}))`,
    },
  ),
  mayBeSecret: true,
};

const TOKEN_PREFIX = "^\\s*(glrt-|glrtr-|glpat-|gldt-|GR1348941)";

/** https://docs.gitlab.com/security/tokens/#token-prefixes */
export function looksLikeToken(value: string): boolean {
  return new RegExp(TOKEN_PREFIX).test(value);
}

export const secretVersion = pattern("^(latest|[1-9][0-9]*)$", "be a version of the secret: latest, or its number");

/** https://cloud.google.com/compute/docs/labeling-resources */
export const labelKey = pattern(
  "^[a-z][a-z0-9_-]{0,62}$",
  "be a label key (1 to 63 of a-z, 0-9, _ and -, beginning with a letter)",
);
export const labelValue = pattern("^[a-z0-9_-]{0,63}$", "be a label value (up to 63 of a-z, 0-9, _ and -)");

export const labels: Rule<{ [key: string]: string }> = {
  must: "have keys of 1 to 63 and values of up to 63 of a-z, 0-9, _ and -, keys beginning with a letter",
  holds: (map) => Object.entries(map).every(([key, value]) => labelKey.holds(key) && labelValue.holds(value)),
  condition: (reference) =>
    `alltrue([for key, value in ${reference} : ${labelKey.condition("key")} && ${labelValue.condition("value")}])`,
};

/** The runner's `lint` command, which guards every change of config.toml, is there from 19.3. */
export const gitlabRunnerVersion: Rule<string> = {
  must: "be a GitLab Runner version of at least 19.3.0, as in 19.3.0 (older ones cannot check their config.toml)",
  holds: (value) => {
    const [, major, minor] = /^([0-9]+)[.]([0-9]+)[.][0-9]+$/.exec(value) ?? [];
    return major !== undefined && Number(major) * 1000 + Number(minor) >= 19003;
  },
  condition: (reference) =>
    `try(tonumber(regex("^([0-9]+)[.][0-9]+[.][0-9]+$", ${reference})[0]) * 1000 + ` +
    `tonumber(regex("^[0-9]+[.]([0-9]+)[.][0-9]+$", ${reference})[0]), 0) >= 19003`,
};

/** https://docs.gitlab.com/runner/configuration/advanced-configuration/#the-global-section */
export const listenAddress = pattern(
  "^(([^\\s:\\[\\]]*|\\[[0-9a-fA-F:.]+\\]):[0-9]{1,5})?$",
  "be [host]:port such as :9252 or 127.0.0.1:9252, or empty",
);

/** https://cloud.google.com/monitoring/support/notification-options */
export const notificationChannel = pattern(
  "^projects/[^/]+/notificationChannels/[^/]+$",
  "be the name of a notification channel such as projects/my-project/notificationChannels/123 (gcloud beta monitoring channels list)",
);

export const notificationChannels: Rule<string[]> = {
  must: "be a list of names such as projects/my-project/notificationChannels/123 (gcloud beta monitoring channels list)",
  holds: (channels) => channels.every((channel) => notificationChannel.holds(channel)),
  condition: (reference) => `alltrue([for channel in ${reference} : ${notificationChannel.condition("channel")}])`,
};

/** A key's fingerprint; spaces are for the reader: gpg prints two in the middle. */
export const keyFingerprint = pattern("^([0-9A-Fa-f] *){40}$", "be a key fingerprint of 40 hexadecimal digits");

export const sha256 = pattern("^([0-9a-f]{64})?$", "be a SHA-256 checksum of 64 hexadecimal digits");

/** A Go duration. https://pkg.go.dev/time#ParseDuration */
export const duration = pattern("^([0-9]+([.][0-9]+)?(ms|s|m|h))+$", "be a duration such as 90s, 15m or 168h");

export const nonEmpty: Rule<string> = {
  must: "not be empty",
  holds: (value) => typeof value === "string" && value.trim() !== "",
  condition: (reference) => `trimspace(${reference}) != ""`,
};
