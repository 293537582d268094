import { check, httpUrl, keyFingerprint, sha256 } from "./rules";
import { DOCKER_MACHINE_VERSION } from "./versions";

/** An apt repository. The host trusts the one key whose fingerprint is given, and that key for this repository only. */
export interface AptRepository {
  /** Address of the repository, as in the `URIs` field of a deb822 source. */
  readonly url: string;
  /** Where its key is downloaded from, armoured or binary. */
  readonly keyUrl: string;
  /** Fingerprint of the key: 40 hexadecimal digits, spaces allowed. Another key fails the deployment. */
  readonly keyFingerprint: string;
  /**
   * The suite. `$CODENAME` in it is the code name of the host's distribution.
   *
   * @default "$CODENAME"
   */
  readonly suite?: string;
  /** The component, such as `stable`. */
  readonly component: string;
}

/** The docker-machine program. */
export interface DockerMachineDownload {
  /** Address of the binary. */
  readonly url: string;
  /**
   * SHA-256 of the binary, 64 hexadecimal digits. A file with another one is not installed.
   *
   * @default - not checked: GitLab publishes sums in `release.sha256` beside the binary; copy the one you trust
   */
  readonly sha256?: string;
}

/** https://docs.docker.com/engine/install/ubuntu/ */
export const DOCKER_REPOSITORY: AptRepository = {
  url: "https://download.docker.com/linux/ubuntu",
  keyUrl: "https://download.docker.com/linux/ubuntu/gpg",
  keyFingerprint: "9DC8 5822 9FC7 DD38 854A E2D8 8D81 803C 0EBF CD88",
  component: "stable",
};

/** https://docs.gitlab.com/runner/install/linux-repository/ */
export const GITLAB_RUNNER_REPOSITORY: AptRepository = {
  url: "https://packages.gitlab.com/runner/gitlab-runner/ubuntu",
  keyUrl: "https://packages.gitlab.com/gpgkey/gpg.key",
  keyFingerprint: "F640 3F65 44A3 8863 DAA0 B6E0 3F01 618A 5131 2F3F",
  component: "main",
};

/** https://cloud.google.com/stackdriver/docs/solutions/agents/ops-agent/installation */
export const OPS_AGENT_REPOSITORY: AptRepository = {
  url: "https://packages.cloud.google.com/apt",
  keyUrl: "https://packages.cloud.google.com/apt/doc/apt-key.gpg",
  // The key file has a second one, with which Google signs nothing here any more.
  keyFingerprint: "35BA A0B3 3E9E B396 F59C A838 C0BA 5CE6 DC63 15A3",
  suite: "google-cloud-ops-agent-$CODENAME-2",
  component: "main",
};

/** https://docs.gitlab.com/runner/executors/docker_machine/ */
export const DOCKER_MACHINE_DOWNLOAD: DockerMachineDownload = {
  url: `https://gitlab-docker-machine-downloads.s3.amazonaws.com/${DOCKER_MACHINE_VERSION}/docker-machine-Linux-x86_64`,
};

/** What a host's settings.json says of a repository. */
export function repositorySettings(property: string, repository: AptRepository, packages: string[]): object {
  check(httpUrl, `${property}.url`, repository.url);
  check(httpUrl, `${property}.keyUrl`, repository.keyUrl);
  check(keyFingerprint, `${property}.keyFingerprint`, repository.keyFingerprint);
  return {
    url: repository.url,
    keyUrl: repository.keyUrl,
    keyFingerprint: repository.keyFingerprint,
    suite: repository.suite ?? "$CODENAME",
    components: repository.component,
    packages,
  };
}

/** What a host's settings.json says of docker-machine. */
export function dockerMachineSettings(download: DockerMachineDownload): object {
  check(httpUrl, "dockerMachine.url", download.url);
  check(sha256, "dockerMachine.sha256", download.sha256);
  return { url: download.url, sha256: download.sha256 ?? "" };
}
