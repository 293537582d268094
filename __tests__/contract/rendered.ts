import { join } from "node:path";
import { parse as parseToml } from "smol-toml";
import { parse as parseYaml } from "yaml";
import { Configuration, Subject, synthesize, Values, valuesFor } from "./subjects";
import { parse, Terraform } from "./terraform";

/** The metadata of a host's VM, as Terraform makes it. */
export interface Metadata {
  readonly "user-data": string;
  readonly [attribute: string]: string;
}

/** What Terraform would write into each VM's metadata, by the resource's name. It needs no provider for that. */
export async function renderMetadata(
  folder: string,
  configuration: Configuration,
  values: Values,
): Promise<Map<string, Metadata>> {
  const terraform = new Terraform(folder);
  terraform.write(withoutResources(configuration));
  terraform.values(values);
  await terraform.apply();
  const outputs = await terraform.outputs();
  return new Map(Object.entries(outputs).map(([instance, { value }]) => [instance, value as Metadata]));
}

/** The same variables, the instances' metadata as outputs, and locals in place of the resources that it refers to. */
function withoutResources({ variable, resource }: Configuration): object {
  const locals: { [type: string]: { [name: string]: { [attribute: string]: unknown } } } = {};
  const instances = Object.entries(resource["google_compute_instance"]);
  const types = Object.keys(resource).join("|");
  const reference = new RegExp(`\\b(${types})\\.([A-Za-z0-9_-]+)\\.([a-z_]+)`, "g");

  const withLocals = (value: unknown): unknown => {
    if (typeof value === "string") {
      return value.replace(reference, (whole, type: string, name: string, attribute: string) => {
        const config = resource[type][name];
        if (config === undefined) {
          return whole;
        }
        const local = ((locals[type] ??= {})[name] ??= {});
        local[attribute] ??= withLocals(config[attribute] ?? computed(name, attribute));
        return `local.${type}.${name}.${attribute}`;
      });
    }
    if (Array.isArray(value)) {
      return value.map(withLocals);
    }
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, withLocals(member)]));
    }
    return value;
  };

  const output = Object.fromEntries(instances.map(([name, { metadata }]) => [name, { value: withLocals(metadata) }]));
  return { variable, locals, output };
}

/** A value in Google's own form for what only Google can say. */
function computed(name: string, attribute: string): string {
  switch (attribute) {
    case "address":
      return "10.128.0.2";
    case "email":
      return `${name.toLowerCase()}@my-project.iam.gserviceaccount.com`;
    default:
      return `projects/my-project/${attribute}/${name}`;
  }
}

/** A file that cloud-init writes. */
interface WrittenFile {
  readonly path: string;
  readonly content: string;
}

export interface UserData {
  readonly write_files: WrittenFile[];
}

/** YAML 1.1, as cloud-init reads it. */
export function parseUserData(userData: string): UserData {
  return parseYaml(userData, { version: "1.1" }) as UserData;
}

export function parseSettings({ write_files }: UserData): unknown {
  return JSON.parse(write_files.find(({ path }) => path.endsWith("/settings.json"))!.content);
}

export interface Table {
  readonly [key: string]: unknown;
}

export function parseConfigToml(text: string): Table {
  return parseToml(text);
}

/** Docker Compose's file, with `$$` read as Docker Compose does. */
export function parseCompose(text: string): unknown {
  const undone = (value: unknown): unknown => {
    if (typeof value === "string") {
      return value.replace(/\$\$/g, () => "$");
    }
    if (Array.isArray(value)) {
      return value.map(undone);
    }
    return value !== null && typeof value === "object"
      ? Object.fromEntries(Object.entries(value).map(([key, member]) => [key, undone(member)]))
      : value;
  };
  return undone(parseYaml(text));
}

/** The metadata of all hosts of an app, with the values that a user would have to give. */
export async function renderSubject(subject: Subject, folder: string): Promise<Metadata[]> {
  const configuration = parse(await synthesize(subject.main, join(folder, "cdktf.out")));
  const metadata = await renderMetadata(join(folder, "terraform"), configuration, valuesFor(subject, configuration));
  return [...metadata.values()];
}

/** This attribute of all hosts that have it. */
export function attribute(hosts: Metadata[], name: string): string[] {
  const found = hosts.map((host) => host[name]).filter((value) => value !== undefined);
  if (found.length === 0) {
    throw new Error(`No host has the attribute ${name} in its metadata`);
  }
  return found;
}
