import { Fn, Token } from "cdktf";
import { check, labelKey, labelValue } from "./rules";

/** Labels: a map, or a token that stands for one. */
export interface Labels {
  readonly [key: string]: string;
}

/** Whether the whole map is a token, and so has keys that only Terraform knows. */
export function isTokenMap(labels: Labels): boolean {
  return Token.isUnresolved(labels);
}

export function checkLabels(labels: Labels | undefined): void {
  if (labels === undefined || isTokenMap(labels)) {
    return;
  }
  for (const [key, value] of Object.entries(labels)) {
    check(labelKey, "labels", key);
    check(labelValue, `labels.${key}`, value);
  }
}

/** The labels of a resource: the owner's own, which win, over the user's. */
export function mergeLabels(labels: Labels | undefined, own: Labels): { [key: string]: string } {
  return labels !== undefined && isTokenMap(labels)
    ? Token.asStringMap(Fn.merge([labels, own]))
    : { ...labels, ...own };
}
