import { ComputeNetwork } from "@cdktf/provider-google/lib/compute-network";
import { ComputeRouter } from "@cdktf/provider-google/lib/compute-router";
import { ComputeRouterNat } from "@cdktf/provider-google/lib/compute-router-nat";
import { ComputeSubnetwork } from "@cdktf/provider-google/lib/compute-subnetwork";
import { TerraformResource } from "cdktf";
import { Construct } from "constructs";
import { defaultName } from "./names";
import { NetworkAttachment } from "./network-attachment";
import { check, cidr, projectId, region, resourceName } from "./rules";

export interface RunnerNetworkProps {
  /** Project id. */
  readonly project: string;
  /** Region of the subnetwork and of its way out; hosts and workers live in its zones. */
  readonly region: string;
  /**
   * Name of the network and, with a suffix, of what belongs to it.
   *
   * @default - made from the construct's path
   */
  readonly name?: string;
  /**
   * IPv4 range of the subnetwork: one address a VM. Docker's own networks take 172.17.0.0/16 and up on each VM: stay clear of them.
   *
   * @default "10.128.0.0/20"
   */
  readonly ipCidrRange?: string;
}

/**
 * A VPC network with one subnetwork and no way in: no VM in it has a public address, and no firewall rule lets anything in
 * but what the constructs in it need. The way out is Cloud NAT, and Private Google Access for Google's own APIs.
 */
export class RunnerNetwork extends Construct implements NetworkAttachment {
  /** Self link of the network. */
  public readonly network: string;
  /** Self link of the subnetwork. */
  public readonly subnetwork: string;
  /** Project of the network. */
  public readonly project: string;
  /** Cloud NAT. */
  public readonly wayOut: TerraformResource;

  constructor(scope: Construct, id: string, props: RunnerNetworkProps) {
    super(scope, id);
    const name = props.name ?? defaultName(this);
    const ipCidrRange = props.ipCidrRange ?? "10.128.0.0/20";
    check(projectId, "project", props.project);
    check(region, "region", props.region);
    check(resourceName, "name", name);
    check(cidr, "ipCidrRange", ipCidrRange);

    const { project } = props;
    const network = new ComputeNetwork(this, "Resource", { project, name, autoCreateSubnetworks: false });
    const subnetwork = new ComputeSubnetwork(this, "Subnetwork", {
      project,
      region: props.region,
      name,
      network: network.selfLink,
      ipCidrRange,
      privateIpGoogleAccess: true,
    });
    const router = new ComputeRouter(this, "Router", {
      project,
      region: props.region,
      name,
      network: network.selfLink,
    });
    this.wayOut = new ComputeRouterNat(this, "Nat", {
      project,
      region: props.region,
      name,
      router: router.name,
      natIpAllocateOption: "AUTO_ONLY",
      sourceSubnetworkIpRangesToNat: "ALL_SUBNETWORKS_ALL_IP_RANGES",
      logConfig: { enable: true, filter: "ERRORS_ONLY" },
    });

    this.project = project;
    this.network = network.selfLink;
    this.subnetwork = subnetwork.selfLink;
  }
}
