import { Token } from "cdktf";
import { machineOptions, MachineOptionsInput } from "../constructs/machine-options";
import { WORKER_IMAGE } from "../constructs/versions";
import { place, resolved, variable } from "./synthesized";

const input: MachineOptionsInput = {
  ...place,
  machineType: "e2-standard-2",
  image: WORKER_IMAGE,
  diskGb: 50,
  diskType: "pd-balanced",
  username: "docker-user",
  serviceAccountEmail: "workers@my-project.iam.gserviceaccount.com",
  scopes: ["https://a", "https://b"],
  owner: "manager",
  managerTimeout: 1800,
  dockerHighWaterPercent: 80,
};
const optionsOf = (changed: Partial<MachineOptionsInput>) => machineOptions({ ...input, ...changed }) as string[];

test("the options of a default worker, in the google driver's own forms", () => {
  expect(optionsOf({})).toEqual([
    "google-project=my-project",
    "google-zone=europe-west1-b",
    "google-machine-type=e2-standard-2",
    "google-machine-image=cos-cloud/global/images/family/cos-stable",
    "google-disk-size=50",
    "google-disk-type=pd-balanced",
    "google-username=docker-user",
    "google-network=shared",
    "google-subnetwork=builds",
    "google-use-internal-ip-only",
    "google-skip-firewall-create",
    "google-service-account=workers@my-project.iam.gserviceaccount.com",
    "google-scopes=https://a,https://b",
    "google-metadata=enable-oslogin=FALSE",
    "google-metadata=block-project-ssh-keys=TRUE",
    "google-metadata-from-file=startup-script=/usr/local/lib/gitlab-runner-gce/worker-startup.sh",
    "google-metadata=manager-timeout=1800",
    "google-metadata=docker-high-water=80",
    "google-label=gitlab-runner-manager:manager",
  ]);
});

test.each([
  "projects/cos-cloud/global/images/family/cos-stable",
  "cos-cloud/global/images/family/cos-stable",
  "https://www.googleapis.com/compute/v1/projects/cos-cloud/global/images/family/cos-stable",
])("the image %s goes without what the driver puts before it", (image) => {
  expect(optionsOf({ image })).toContain("google-machine-image=cos-cloud/global/images/family/cos-stable");
});

test("the image of a variable loses the same prefixes in Terraform", () => {
  expect(resolved((stack) => optionsOf({ image: variable(stack).stringValue })[3])).toBe(
    'google-machine-image=${trimprefix(trimprefix(var.tuned, "https://www.googleapis.com/compute/v1/"), "projects/")}',
  );
});

test("a spot worker is preemptible; docker-machine knows no other form", () => {
  expect(optionsOf({ spot: true })).toContain("google-preemptible");
  expect(optionsOf({ spot: false })).toEqual(optionsOf({}));
  expect(resolved((stack) => optionsOf({ spot: variable(stack).booleanValue }).at(-7))).toBe(
    "google-preemptible=${var.tuned}",
  );
});

test("the registry mirror is Docker's, and the start-up script's for docker-in-docker", () => {
  const mirrored = optionsOf({ registryMirrorUrl: "http://10.0.0.2:6000" });
  expect(mirrored).toContain("engine-registry-mirror=http://10.0.0.2:6000");
  expect(mirrored).toContain("google-metadata=registry-mirror=http://10.0.0.2:6000");
});

test("what a worker watches itself by is in its metadata, from variables too", () => {
  expect(optionsOf({ managerTimeout: 600, dockerHighWaterPercent: 70 })).toEqual(
    expect.arrayContaining(["google-metadata=manager-timeout=600", "google-metadata=docker-high-water=70"]),
  );
  const options = resolved((stack) => {
    const { numberValue } = variable(stack);
    return optionsOf({ managerTimeout: numberValue, dockerHighWaterPercent: numberValue });
  });
  expect(options).toEqual(
    expect.arrayContaining([
      "google-metadata=manager-timeout=${var.tuned}",
      "google-metadata=docker-high-water=${var.tuned}",
    ]),
  );
});

test("tags are one option, labels one each, with a colon", () => {
  expect(optionsOf({ tags: ["a", "b"] })).toContain("google-tags=a,b");
  expect(optionsOf({ labels: { team: "ci", env: "" } })).toEqual(
    expect.arrayContaining(["google-label=team:ci", "google-label=env:"]),
  );
});

test("the owner's label wins over the user's: docker-machine takes the last of a key", () => {
  const labels = optionsOf({ labels: { "gitlab-runner-manager": "somebody" } }).filter((option) =>
    option.startsWith("google-label=gitlab-runner-manager:"),
  );
  expect(labels.at(-1)).toBe("google-label=gitlab-runner-manager:manager");
});

test("further options come last, where they win", () => {
  expect(optionsOf({ machineOptions: ["engine-opt=mtu=1460", "google-disk-size=80"] }).slice(-2)).toEqual([
    "engine-opt=mtu=1460",
    "google-disk-size=80",
  ]);
});

test("labels of a variable make the list an expression, in which every literal is whole", () => {
  const options = resolved((stack) => {
    const labels = Token.asStringMap(variable(stack).value);
    return machineOptions({ ...input, labels, machineOptions: ['engine-label=a="b"'] });
  });
  expect(options).toMatch(/^\$\{concat\(\["google-project=my-project", /);
  expect(options).toContain(String.raw`"engine-label=a=\"b\""]`);
  expect(options).toContain('formatlist("google-label=%s:%s", keys(var.tuned), values(var.tuned))');
});

test.each([
  ["tags", "google-tags="],
  ["scopes", "google-scopes="],
  ["machineOptions", "var.tuned"],
])("%s may be a list that only Terraform knows", (property, option) => {
  const options = resolved((stack) => machineOptions({ ...input, [property]: variable(stack).listValue }));
  expect(JSON.stringify(options)).toContain(option);
  expect(JSON.stringify(options)).toContain("var.tuned");
});
