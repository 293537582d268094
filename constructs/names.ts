import { createHash } from "crypto";
import { Token } from "cdktf";
import { IConstruct } from "constructs";

const hash = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 6);

/** A Google Cloud resource name made from the construct's path. */
export function defaultName(construct: IConstruct): string {
  const { path } = construct.node;
  const name = path
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^[^a-z]+|-+$/g, "");
  return name.length <= 40 ? name : `${name.slice(0, 33).replace(/-+$/, "")}-${hash(path)}`;
}

/** An id for the service account of what has this name: 6 to 30 characters. A name from a variable is taken as it is. */
export function serviceAccountId(name: string): string {
  if (Token.isUnresolved(name) || (name.length >= 6 && name.length <= 30)) {
    return name;
  }
  return `${name.slice(0, 23).replace(/-+$/, "")}-${hash(name)}`;
}

/** A short, stable part for the id of a construct, for one of several of its kind. */
export function idSuffix(text: string): string {
  return hash(text);
}
