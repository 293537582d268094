import { IConstruct } from "constructs";
import { NetworkAttachment } from "./network-attachment";
import { MachineConfig } from "./runner-config";

/** The runner host, as its workers see it. */
export interface WorkersManager {
  /** Path of its construct. */
  readonly path: string;
  /** Name of the manager's VM: the owner in the workers' labels. */
  readonly name: string;
  readonly serviceAccountEmail: string;
  /** URL of the registry mirror that the workers' Docker uses. */
  readonly registryMirrorUrl?: string;
}

/** What a kind of workers puts into a `[[runners]]` entry. */
export interface WorkersConfig {
  readonly executor: string;
  readonly limit: number;
  /** First major version of GitLab Runner that does not have this executor. */
  readonly removedIn?: number;
  readonly machine?: MachineConfig;
}

/** Where jobs run. The kind that is passed to a registration chooses its executor. */
export interface RunnerWorkers extends IConstruct {
  /** Project of the VMs. */
  readonly project: string;
  /** Where the VMs are attached. */
  readonly network: NetworkAttachment;
  /** E-mail of the service account that the VMs act as. */
  readonly serviceAccountEmail: string;
  /** Lets the manager reach the workers, and tells it how to make them. Called by the registration. */
  attach(manager: WorkersManager): WorkersConfig;
}
