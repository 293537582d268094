import { join } from "node:path";
import { describeIf, programAvailable, temporaryFolder } from "./programs";
import { parseConfigToml, renderMetadata } from "./rendered";
import { synthesize } from "./subjects";
import { parse } from "./terraform";

/** What the how-to of 2017 has in its config.toml; the token and the keys are in neither. */
const SEED = {
  concurrent: 1,
  check_interval: 0,
  runners: [
    {
      name: "gcloud-autoscale",
      url: "https://gitlab.artivisi.id",
      token: "(a registration's token)",
      executor: "docker+machine",
      docker: {
        tls_verify: false,
        image: "alpine:latest",
        privileged: true,
        disable_cache: false,
        volumes: ["/cache"],
        shm_size: 0,
      },
      cache: {
        Type: "s3",
        ServerAddress: "10.148.0.3:9005",
        AccessKey: "(a key)",
        SecretKey: "(a key)",
        BucketName: "runner",
        Insecure: true,
        Shared: true,
      },
      machine: {
        IdleCount: 0,
        IdleTime: 600,
        MaxBuilds: 5,
        MachineDriver: "google",
        MachineName: "%s",
        MachineOptions: [
          "google-project=gitlab-family",
          "google-zone=asia-southeast1-a",
          "google-machine-image=coreos-cloud/global/images/coreos-stable-1298-7-0-v20170401",
          "google-machine-type=g1-small",
          "engine-registry-mirror=http://10.148.0.3:6000",
        ],
      },
    },
  ],
};

const SECRETS = "secret://projects/gitlab-family/secrets";
const NO_SUCH_KEY = undefined;

// prettier-ignore
/** Every difference: key, what the how-to has, what the example has, and why. The address is what the test puts in. */
const DIFFERENCES: [key: string, seed: unknown, now: unknown, why: string][] = [
  ["runner.token", "(a registration's token)", `${SECRETS}/gitlab-runner-token/versions/latest`, "a token of today's kind, from Secret Manager"],
  ["runner.feature_flags.FF_DISABLE_AUTOMATIC_TOKEN_ROTATION", NO_SUCH_KEY, true, "the secret says which token it is"],
  ["runner.limit", NO_SUCH_KEY, 5, "the ceiling for VMs that the how-to took MaxBuilds for"],
  ["runner.docker.volumes[1]", NO_SUCH_KEY, "/var/lib/gitlab-runner-worker/etc-docker:/etc/docker", "docker-in-docker uses the mirror too"],
  ["runner.cache.ServerAddress", "10.148.0.3:9005", NO_SUCH_KEY, "is in [runners.cache.s3] today"],
  ["runner.cache.AccessKey", "(a key)", NO_SUCH_KEY, "is in [runners.cache.s3] today"],
  ["runner.cache.SecretKey", "(a key)", NO_SUCH_KEY, "is in [runners.cache.s3] today"],
  ["runner.cache.BucketName", "runner", NO_SUCH_KEY, "is in [runners.cache.s3] today"],
  ["runner.cache.Insecure", true, NO_SUCH_KEY, "is in [runners.cache.s3] today"],
  ["runner.cache.s3.ServerAddress", NO_SUCH_KEY, "10.128.0.2:9005", "the cache host's reserved internal address"],
  ["runner.cache.s3.AccessKey", NO_SUCH_KEY, `${SECRETS}/docker-registry-cache-keys/versions/latest#access_key`, "the cache host makes the keys"],
  ["runner.cache.s3.SecretKey", NO_SUCH_KEY, `${SECRETS}/docker-registry-cache-keys/versions/latest#secret_key`, "the cache host makes the keys"],
  ["runner.cache.s3.BucketName", NO_SUCH_KEY, "runner", "as in the how-to"],
  ["runner.cache.s3.Insecure", NO_SUCH_KEY, true, "as in the how-to: plain HTTP inside the network"],
  ["runner.cache.s3.BucketLocation", NO_SUCH_KEY, "us-east-1", "else the runner asks the server for it each time"],
  ["runner.cache.s3.AuthenticationType", NO_SUCH_KEY, "access-key", "by keys, also if one is missing for a moment"],
  ["runner.cache.s3.PathStyle", NO_SUCH_KEY, true, "the server has no host name for each bucket"],
  ["runner.machine.MachineOptions.google-machine-image", "coreos-cloud/global/images/coreos-stable-1298-7-0-v20170401", "cos-cloud/global/images/family/cos-stable", "CoreOS is gone; this one has Docker in it too"],
  ["runner.machine.MachineOptions.engine-registry-mirror", "http://10.148.0.3:6000", "http://10.128.0.2:6000", "the cache host's reserved internal address"],
  ["runner.machine.MachineOptions.google-disk-size", NO_SUCH_KEY, "50", "the driver's 10 GB are too few for job images"],
  ["runner.machine.MachineOptions.google-disk-type", NO_SUCH_KEY, "pd-balanced", "the driver's pd-standard is slow"],
  ["runner.machine.MachineOptions.google-username", NO_SUCH_KEY, "docker-user", "the same in each of docker-machine's versions"],
  ["runner.machine.MachineOptions.google-network", NO_SUCH_KEY, "projects/gitlab-family/global/networks/default", "says what was the driver's default"],
  ["runner.machine.MachineOptions.google-subnetwork", NO_SUCH_KEY, "projects/gitlab-family/regions/asia-southeast1/subnetworks/default", "says what was the driver's default"],
  ["runner.machine.MachineOptions.google-use-internal-ip-only", NO_SUCH_KEY, "", "no public addresses"],
  ["runner.machine.MachineOptions.google-skip-firewall-create", NO_SUCH_KEY, "", "the driver's rule opens 2376 to the world"],
  ["runner.machine.MachineOptions.google-service-account", NO_SUCH_KEY, "workers_serviceaccount_c7cebeca@my-project.iam.gserviceaccount.com", "the driver's default is a powerful one"],
  ["runner.machine.MachineOptions.google-scopes", NO_SUCH_KEY, "https://www.googleapis.com/auth/logging.write,https://www.googleapis.com/auth/monitoring.write", "the driver's default reads storage"],
  ["runner.machine.MachineOptions.google-metadata.enable-oslogin", NO_SUCH_KEY, "FALSE", "docker-machine comes by a key in the metadata"],
  ["runner.machine.MachineOptions.google-metadata.block-project-ssh-keys", NO_SUCH_KEY, "TRUE", "and nobody else does"],
  ["runner.machine.MachineOptions.google-metadata.registry-mirror", NO_SUCH_KEY, "http://10.128.0.2:6000", "for docker-in-docker"],
  ["runner.machine.MachineOptions.google-metadata-from-file.startup-script", NO_SUCH_KEY, "/usr/local/lib/gitlab-runner-gce/worker-startup.sh", "keeps jobs from the metadata server"],
  ["runner.machine.MachineOptions.google-label.gitlab-runner-manager", NO_SUCH_KEY, "gitlab-runner", "whose VM it is"],
  ["runner.machine.MachineOptions.google-metadata.manager-timeout", NO_SUCH_KEY, "1800", "a VM whose manager is gone ends by itself"],
  ["runner.machine.MachineOptions.google-metadata.docker-high-water", NO_SUCH_KEY, "80", "its disk does not fill"],
  ["listen_address", NO_SUCH_KEY, "127.0.0.1:9252", "metrics, for the host itself"],
  ["log_format", NO_SUCH_KEY, "json", "for machines to read"],
];

interface Config {
  readonly runners: { readonly machine: { readonly MachineOptions: string[] } }[];
}

/** One entry a value, under its path; the only runner is "runner", and an option is under its own name. */
function flatten(config: object): Map<string, unknown> {
  const { runners, ...global } = config as Config;
  const { machine, ...runner } = runners[0];
  const flat = new Map<string, unknown>();
  const add = (path: string, value: unknown): void => {
    if (Array.isArray(value)) {
      value.forEach((item, index) => add(`${path}[${index}]`, item));
    } else if (value !== null && typeof value === "object") {
      Object.entries(value).forEach(([key, member]) => add(path === "" ? key : `${path}.${key}`, member));
    } else {
      flat.set(path, value);
    }
  };
  add("", { ...global, runner: { ...runner, machine: { ...machine, MachineOptions: undefined } } });
  flat.delete("runner.machine.MachineOptions");
  for (const option of machine.MachineOptions) {
    // `google-label` is key:value, the other two are key=value.
    const [, name, value] = /^((?:google-metadata(?:-from-file)?=|google-label=)?[^=:]+)[=:]?(.*)$/s.exec(option)!;
    flat.set(`runner.machine.MachineOptions.${name.replace("=", ".")}`, value);
  }
  expect(runners).toHaveLength(1);
  return flat;
}

describeIf(programAvailable("terraform"))("examples/gitlab-family", () => {
  const folder = temporaryFolder();
  const seed = flatten(SEED);
  let now: Map<string, unknown>;

  beforeAll(async () => {
    const configuration = parse(await synthesize("examples/gitlab-family/main.ts", join(folder, "synthesized")));
    const metadata = await renderMetadata(join(folder, "rendered"), configuration, {});
    const configs = [...metadata.values()].flatMap((attributes) => attributes["config-toml"] ?? []);
    expect(configs).toHaveLength(1);
    now = flatten(parseConfigToml(configs[0]));
  });

  test("says the same as the how-to's config.toml, but for the differences above", () => {
    const differing = [...new Set([...seed.keys(), ...now.keys()])].filter((key) => seed.get(key) !== now.get(key));

    expect(differing.sort()).toEqual(DIFFERENCES.map(([key]) => key).sort());
  });

  test.each(DIFFERENCES)("%s: %j became %j: %s", (key, before, after) => {
    expect(seed.get(key)).toBe(before);
    expect(now.get(key)).toBe(after);
  });
});
