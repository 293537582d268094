import { Fn, TerraformResource, TerraformStack, Token } from "cdktf";
import { IConstruct } from "constructs";
import { stringExpression } from "./rendering";

/** A place in a network for a VM. `RunnerNetwork` makes one; an object with the names of an existing network is one too. */
export interface NetworkAttachment {
  /** The VPC network: its name or self link; as a Terraform value, its self link. */
  readonly network: string;
  /**
   * The subnetwork in the region of the VM: its name or self link; as a Terraform value, its self link. In an auto mode network it
   * has the network's name.
   */
  readonly subnetwork: string;
  /**
   * Project of the network, where its firewall rules live: the host project of a shared VPC. There the runner host's service
   * account also needs `roles/compute.networkUser` on the subnetwork, to make workers in it.
   *
   * @default - the project of the construct that is attached
   */
  readonly project?: string;
  /**
   * What VMs there reach the Internet by, of the same stack: it is there before a host there is, and stays until the last job has
   * ended.
   *
   * @default - nothing of this stack
   */
  readonly wayOut?: TerraformResource;
}

/** An attachment that everybody understands alike. */
export interface NetworkPaths extends NetworkAttachment {
  readonly project: string;
}

/**
 * With paths in the place of names. In which project a mere name is, Google, the provider and docker-machine each see otherwise.
 */
export function networkPaths(attachment: NetworkAttachment, vmProject: string, zone: string): NetworkPaths {
  const { network, subnetwork, wayOut, project = vmProject } = attachment;
  const path = (name: string, folder: string) =>
    Token.isUnresolved(name) || name.includes("/") ? name : `projects/${project}/${folder}/${name}`;
  return {
    network: path(network, "global/networks"),
    subnetwork: path(subnetwork, `regions/${regionOf(zone)}/subnetworks`),
    project,
    wayOut,
  };
}

/** The way out, if it is one that this construct's stack can wait for. */
export function ownWayOut(user: IConstruct, { wayOut }: NetworkAttachment): TerraformResource[] {
  return wayOut !== undefined && TerraformStack.of(wayOut) === TerraformStack.of(user) ? [wayOut] : [];
}

export function regionOf(zone: string): string {
  return Token.isUnresolved(zone)
    ? Fn.join("-", Token.asList(Fn.slice(Token.asList(Fn.split("-", stringExpression(zone))), 0, 2)))
    : zone.replace(/-[^-]+$/, "");
}
