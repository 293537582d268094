/** A place in a network for a VM. `RunnerNetwork` makes one; an object with the names of an existing network is one too. */
export interface NetworkAttachment {
  /** The VPC network: its name or self link. */
  readonly network: string;
  /**
   * The subnetwork: its name or self link. Needed unless the network makes its subnetworks by itself.
   *
   * @default - the network's own one in the region
   */
  readonly subnetwork?: string;
  /**
   * Project of the network, where its firewall rules live: the host project of a shared VPC.
   *
   * @default - the project of the construct that is attached
   */
  readonly project?: string;
}
