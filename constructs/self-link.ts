import { Fn, Token } from "cdktf";
import { stringExpression } from "./rendering";

const API = "https://www.googleapis.com/compute/v1/";

/** A resource of Compute Engine as `projects/…`: the provider gives its self link, but somebody may write less of it. */
export function relativePath(selfLink: string): string {
  if (Token.isUnresolved(selfLink)) {
    return Fn.trimprefix(stringExpression(selfLink), API);
  }
  return selfLink.startsWith(API) ? selfLink.slice(API.length) : selfLink;
}
