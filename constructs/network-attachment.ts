import { TerraformResource } from "cdktf";

/** A place in a network for a VM. `RunnerNetwork` makes one; an object with the names of an existing network is one too. */
export interface NetworkAttachment {
  /** The VPC network: its name or self link. */
  readonly network: string;
  /** The subnetwork in the region of the VM: its name or self link. In an auto mode network it has the network's name. */
  readonly subnetwork: string;
  /**
   * Project of the network, where its firewall rules live: the host project of a shared VPC. There the runner host's service
   * account also needs `roles/compute.networkUser` on the subnetwork, to make workers in it.
   *
   * @default - the project of the construct that is attached
   */
  readonly project?: string;
  /**
   * What VMs there reach the Internet by, of the same stack: it is there before a host is, and stays until the host has gone.
   *
   * @default - nothing of this stack
   */
  readonly wayOut?: TerraformResource;
}
