import { homedir } from "node:os";
import { join } from "node:path";

/** Beginning of the names of all network namespaces and control groups of the lab. */
export const LAB = "gce-lab";

export const PROJECT = "lab-project";
export const PROJECT_NUMBER = "424242424242";
export const REGION = "us-central1";
export const ZONE = "us-central1-a";

/** The range of the stack's own subnetwork, its first address being the gateway's, as at Google. */
export const SUBNET = { prefix: "10.128.0", mask: 20, gateway: "10.128.0.1" };
/** Metadata server and resolver. */
export const METADATA_ADDRESS = "169.254.169.254";
/** What is out in the Internet. */
export const ADDRESSES = {
  google: "198.51.100.1",
  dockerHub: "198.51.100.2",
  gitlab: "198.51.100.3",
  packages: "198.51.100.4",
};
export const GITLAB_HOST = "gitlab.lab.internal";
export const PACKAGES_HOST = "packages.lab.internal";
export const DOCKER_HUB_HOST = "registry-1.docker.io";
/** Terraform reaches Google's addresses through a proxy here, in the lab's network. */
export const GOOGLE_PROXY_PORT = 3129;
/** A registry as Docker Hub's, without the slow line before it. */
export const DOCKER_HUB_PORT = 5000;

const cacheHome = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
/** What is made once: base images, packages, container images, programs from npm. */
export const CACHE = process.env["LAB_CACHE"] || join(cacheHome, "gitlab-runner-gce", "lab");
/** What a run makes; gone after `down`. Docker's storage is in it: no tmpfs, no overlay. */
export const STATE = process.env["LAB_STATE"] || join("/var/tmp", LAB);
/** The logs of the last run. */
export const LOGS = join(CACHE, "log");

export const REPOSITORY = join(__dirname, "..", "..");
