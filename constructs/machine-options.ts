import { Fn, IResolvable, Token } from "cdktf";
import { isTokenMap, Labels } from "./labels";
import { NetworkAttachment } from "./network-attachment";
import { numberText, stringExpression } from "./rendering";
import { Flag } from "./runner-config";
import { relativePath } from "./self-link";

/** Path on the runner host of the program that each worker runs when it boots. */
const WORKER_STARTUP = "/usr/local/lib/gitlab-runner-gce/worker-startup.sh";

export interface MachineOptionsInput {
  readonly project: string;
  readonly zone: string;
  readonly network: NetworkAttachment;
  readonly machineType: string;
  readonly image: string;
  readonly diskGb: number;
  readonly diskType: string;
  readonly spot?: Flag;
  readonly username: string;
  readonly serviceAccountEmail: string;
  readonly scopes: string[];
  readonly tags?: string[];
  readonly labels?: Labels;
  readonly owner: string;
  readonly registryMirrorUrl?: string;
  readonly managerTimeout: number;
  readonly dockerHighWaterPercent: number;
  readonly machineOptions?: string[];
}

/**
 * The options of `docker-machine create` for a worker, in the google driver's own forms: a label is `key:value`, metadata is
 * `key=value`, and an image has no `projects/` before it.
 * https://gitlab.com/gitlab-org/ci-cd/docker-machine/-/blob/main/docs/drivers/gce.md
 */
export function machineOptions(input: MachineOptionsInput): string[] | IResolvable {
  const { registryMirrorUrl, spot } = input;
  const lists = [
    [
      `google-project=${input.project}`,
      `google-zone=${input.zone}`,
      `google-machine-type=${input.machineType}`,
      `google-machine-image=${driverImage(input.image)}`,
      `google-disk-size=${numberText(input.diskGb)}`,
      `google-disk-type=${input.diskType}`,
      `google-username=${input.username}`,
      `google-network=${input.network.network}`,
      `google-subnetwork=${input.network.subnetwork}`,
      "google-use-internal-ip-only",
      // Else the driver opens port 2376 to the world, in a rule that all deployments of a project share.
      "google-skip-firewall-create",
      `google-service-account=${input.serviceAccountEmail}`,
      `google-scopes=${commaList(input.scopes)}`,
      ...(input.tags === undefined ? [] : [`google-tags=${commaList(input.tags)}`]),
      ...(spot === undefined || spot === false ? [] : [spotOption(spot)]),
      // docker-machine comes by a key in the metadata, which OS Login would ignore.
      "google-metadata=enable-oslogin=FALSE",
      "google-metadata=block-project-ssh-keys=TRUE",
      `google-metadata-from-file=startup-script=${WORKER_STARTUP}`,
      `google-metadata=manager-timeout=${numberText(input.managerTimeout)}`,
      `google-metadata=docker-high-water=${numberText(input.dockerHighWaterPercent)}`,
      ...(registryMirrorUrl === undefined
        ? []
        : [`google-metadata=registry-mirror=${registryMirrorUrl}`, `engine-registry-mirror=${registryMirrorUrl}`]),
    ],
    labelOptions(input.labels ?? {}),
    // Behind the user's: of two labels with one key the last holds.
    [`google-label=gitlab-runner-manager:${input.owner}`],
    input.machineOptions ?? [],
  ];
  if (!lists.some((list) => Token.isUnresolved(list))) {
    return (lists as string[][]).flat();
  }
  const literal = (list: string[]) => list.map(stringExpression);
  return Token.asAny(Fn.concat(lists.map((list) => (Token.isUnresolved(list) ? list : literal(list as string[])))));
}

function labelOptions(labels: Labels): string[] | IResolvable {
  return isTokenMap(labels)
    ? Token.asAny(Fn.formatlist("google-label=%s:%s", [Fn.keys(labels), Fn.values(labels)]))
    : Object.entries(labels).map(([key, value]) => `google-label=${key}:${value}`);
}

function spotOption(spot: Flag): string {
  return spot === true ? "google-preemptible" : `google-preemptible=${Token.asString(spot)}`;
}

function commaList(list: string[]): string {
  return Token.isUnresolved(list) ? Fn.join(",", list) : list.join(",");
}

/** The driver puts its own prefix before an image and strips only that one: with another in the way it finds nothing. */
function driverImage(image: string): string {
  const path = relativePath(image);
  return Token.isUnresolved(path) ? Fn.trimprefix(path, "projects/") : path.replace(/^projects\//, "");
}
