export { type BuildCache } from "./build-cache";
export { BuildCacheServer, CacheHost, type CacheHostProps } from "./cache-host";
export { DockerMachineWorkers, type DockerMachineWorkersProps } from "./docker-machine-workers";
export { type HostVmProps } from "./host-vm";
export { type Labels } from "./labels";
export { RunnerMonitoring, type RunnerMonitoringProps } from "./monitoring";
export { type NetworkAttachment } from "./network-attachment";
export {
  type AptRepository,
  DOCKER_MACHINE_DOWNLOAD,
  DOCKER_REPOSITORY,
  type DockerMachineDownload,
  GITLAB_RUNNER_REPOSITORY,
  OPS_AGENT_REPOSITORY,
} from "./package-sources";
export {
  type AutoscalingConfig,
  type CacheConfig,
  type DockerConfig,
  type DockerService,
  type Flag,
  type GcsCacheConfig,
  type LogFormat,
  type LogLevel,
  type MachineConfig,
  type PullPolicy,
  type S3CacheConfig,
  type Shell,
  type TomlTable,
} from "./runner-config";
export { RunnerHost, type RunnerHostProps } from "./runner-host";
export { RunnerNetwork, type RunnerNetworkProps } from "./runner-network";
export { RunnerRegistration, type RunnerRegistrationProps } from "./runner-registration";
export { RunnerTokenSecret, type RunnerTokenSecretProps } from "./runner-token-secret";
export { type RunnerWorkers, type WorkersConfig, type WorkersManager } from "./runner-workers";
export { type SecretReference } from "./secret-reference";
export { DOCKER_PACKAGES, GITLAB_RUNNER_VERSION, HOST_IMAGE, IMAGES, WORKER_IMAGE } from "./versions";
