import type { Opening } from "../network";
import { ApiError } from "./api";
import type { Instance } from "./instance";

/** A firewall rule, as far as the stack needs them: it lets something in. */
export interface Firewall {
  readonly network: string;
  readonly sourceRanges?: readonly string[];
  readonly sourceServiceAccounts?: readonly string[];
  readonly targetServiceAccounts?: readonly string[];
  readonly allowed: readonly { readonly IPProtocol: string; readonly ports?: readonly string[] }[];
}

const KNOWN = ["network", "sourceRanges", "sourceServiceAccounts", "targetServiceAccounts", "allowed"];
const WITHOUT_EFFECT = ["name", "description", "direction", "priority", "logConfig", "disabled"];

/** Refuses what would mean something that the lab does not do. */
export function checkFirewall(body: object): void {
  const unknown = Object.keys(body).filter((field) => ![...KNOWN, ...WITHOUT_EFFECT].includes(field));
  const { direction = "INGRESS", allowed = [] } = body as { direction?: string } & Partial<Firewall>;
  if (unknown.length > 0 || direction !== "INGRESS" || allowed.some(({ IPProtocol }) => IPProtocol !== "tcp")) {
    throw new ApiError(501, `The lab's firewall cannot do ${JSON.stringify(body)}`);
  }
}

/** What the rules of its network let in to an instance; nothing else may reach it. */
export function openingsOf(instance: Instance, rules: readonly Firewall[], all: readonly Instance[]): Opening[] {
  const applies = ({ network, targetServiceAccounts: targets }: Firewall) =>
    network === instance.networkLink &&
    (targets === undefined || targets.includes(instance.serviceAccount?.email ?? ""));
  return rules.filter(applies).flatMap(({ sourceRanges = [], sourceServiceAccounts = [], network, allowed }) => {
    const neighbours = all.filter(
      (other) => other.networkLink === network && sourceServiceAccounts.includes(other.serviceAccount?.email ?? ""),
    );
    const sources = [...sourceRanges, ...neighbours.map(({ address }) => address)];
    return allowed.flatMap(({ ports = ["0:65535"] }) => sources.map((source) => ({ source, ports })));
  });
}
