/**
 * Every version and digest that this package installs, in one place. Changing one replaces the hosts that use it, except for
 * the container images, which change in place.
 */

/** Newest release that is seen in GitLab's apt repository; from 19.3 on it can `lint` its configuration. */
export const GITLAB_RUNNER_VERSION = "19.3.0";

/** From this release on GitLab Runner has no docker+machine. https://docs.gitlab.com/runner/executors/docker_machine/ */
export const DOCKER_MACHINE_REMOVED_IN = 20;

/** GitLab's fork. The newest tag; `google-metadata`, `google-label` and `google-skip-firewall-create` exist only there. */
export const DOCKER_MACHINE_VERSION = "v0.16.2-gitlab.59";

/** One set that Docker released together; "*" stands for the distribution's part of a package version. */
export const DOCKER_PACKAGES = [
  "docker-ce=5:29.8.0-1~*",
  "docker-ce-cli=5:29.8.0-1~*",
  "containerd.io=2.3.5-1~*",
  "docker-buildx-plugin=0.37.0-1~*",
  "docker-compose-plugin=5.4.0-1~*",
];

/** Its configuration file is the same throughout a major version. */
export const OPS_AGENT_PACKAGES = ["google-cloud-ops-agent=2.*"];

export const IMAGES = {
  /** https://hub.docker.com/_/registry */
  registry: "registry:3.1.1@sha256:1be55279f18a2fe1a74edf2664cac61c1bea305b7b4642dab412e7affdcb3e33",
  /** https://hub.docker.com/r/versity/versitygw */
  versitygw: "versity/versitygw:v1.8.0@sha256:30292fc2eeacc67a36993b01f7a7a5e3361a19cced0e80c1d71cfa2a4b0a2499",
  /** MinIO's last image; Docker Hub has none any more, and nobody mends it. */
  minio:
    "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z@sha256:14cea493d9a34af32f524e538b8346cf79f3321eff8e708c1e2960462bd8936e",
};

/** The hosts' boot image: has cloud-init, Python and apt. From 24.04 on a family's name ends in the architecture. */
export const HOST_IMAGE = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64";

/** The workers' image: Docker is in it, and Google keeps it patched. */
export const WORKER_IMAGE = "projects/cos-cloud/global/images/family/cos-stable";
