import { AnnotationMetadataEntryType, TerraformOutput, TerraformStack, TerraformVariable, Testing } from "cdktf";
import { IConstruct } from "constructs";
import { parse } from "smol-toml";
import { TomlTable } from "../constructs/runner-config";

/** A resource block of the synthesized JSON. */
export interface Resource {
  readonly [argument: string]: unknown;
  readonly name: string;
  readonly metadata: { readonly [attribute: string]: string };
  readonly labels: { readonly [key: string]: string };
}

type Resources = Record<string, Record<string, Resource>>;

/** What a stack with these constructs becomes. */
export class Synthesized {
  public readonly text: string;
  public readonly resources: Resources;
  public readonly outputs: Record<string, { readonly value: unknown }>;

  constructor(build: (stack: TerraformStack) => void) {
    this.text = Testing.synthScope((scope) => build(scope as TerraformStack));
    const { resource = {}, output = {} } = JSON.parse(this.text) as {
      resource?: Resources;
      output?: Record<string, { value: unknown }>;
    };
    this.resources = resource;
    this.outputs = output;
  }

  /** All resources of the type whose construct path begins with this id. */
  public all(type: string, path = ""): Resource[] {
    return Object.entries(this.resources[type] ?? {})
      .filter(([id]) => id === path || id.startsWith(path === "" ? "" : `${path}_`))
      .map(([, resource]) => resource);
  }

  /** The one resource of the type whose construct path begins with this id. */
  public one(type: string, path = ""): Resource {
    const found = this.all(type, path);
    if (found.length !== 1) {
      throw new Error(`${found.length} of ${type} ${path} in ${this.text}`);
    }
    return found[0];
  }
}

export function synthesized(build: (stack: TerraformStack) => void): Synthesized {
  return new Synthesized(build);
}

/** What a value becomes in the JSON. */
export function resolved(value: (stack: TerraformStack) => unknown): unknown {
  return synthesized((stack) => new TerraformOutput(stack, "value", { value: value(stack) })).outputs["value"].value;
}

/** The Terraform variable of that name, of any type. */
export function variable(stack: TerraformStack, id = "tuned"): TerraformVariable {
  return (stack.node.tryFindChild(id) as TerraformVariable | undefined) ?? new TerraformVariable(stack, id, {});
}

/** What a VM needs, of an existing network. */
export const place = {
  project: "my-project",
  zone: "europe-west1-b",
  network: { network: "shared", subnetwork: "builds" },
};

/** The same network, as the resources there name it. */
export const networkPaths = {
  network: "projects/my-project/global/networks/shared",
  subnetwork: "projects/my-project/regions/europe-west1/subnetworks/builds",
};

const EXPRESSION = /(?<!\$)\$\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}/g;

/** The text that Terraform makes of a string; an expression stands in it as a JSON string of its own source. */
export function evaluated(text: string): string {
  return text
    .replace(EXPRESSION, (expression) => JSON.stringify(expression.slice(2, -1)))
    .replace(/\$\$\{/g, () => "${")
    .replace(/%%\{/g, () => "%{");
}

/** A config.toml; an expression in it is the string of its own source. */
export interface ConfigToml extends TomlTable {
  readonly runners: RunnerEntry[];
}

export interface RunnerEntry extends TomlTable {
  readonly docker: TomlTable;
  readonly machine: TomlTable & { readonly MachineOptions: string[] };
  readonly cache: TomlTable & { readonly s3: TomlTable };
}

export function configToml(host: Resource): ConfigToml {
  return parse(evaluated(host.metadata["config-toml"])) as unknown as ConfigToml;
}

/** The warnings that synthesis prints for this construct. */
export function warnings(construct: IConstruct): string[] {
  const warning: string = AnnotationMetadataEntryType.WARN;
  return construct.node.metadata.filter(({ type }) => type === warning).map(({ data }) => String(data));
}

/** Everything that Google wants to be unique in a project. */
export function uniqueNames({ resources }: Pick<Synthesized, "resources">): string[] {
  return Object.entries(resources).flatMap(([type, ofType]) =>
    Object.values(ofType).flatMap((resource) =>
      [resource.name, resource["secret_id"], resource["account_id"], resource["role_id"]]
        .filter((name) => typeof name === "string" && type !== "google_secret_manager_secret_iam_member")
        .map((name) => `${type} ${String(name)}`),
    ),
  );
}

/** Labels of all that Google has labels for. */
export function ownerLabels({ resources }: Pick<Synthesized, "resources">): unknown[] {
  return [
    "google_compute_address",
    "google_compute_disk",
    "google_compute_instance",
    "google_secret_manager_secret",
  ].flatMap((type) =>
    Object.values(resources[type] ?? {}).flatMap(({ labels, boot_disk: disk }) =>
      disk === undefined
        ? [labels]
        : [labels, (disk as { initialize_params: { labels: unknown } }).initialize_params.labels],
    ),
  );
}
