import {
  AptRepository,
  DOCKER_MACHINE_DOWNLOAD,
  DOCKER_REPOSITORY,
  dockerMachineSettings,
  GITLAB_RUNNER_REPOSITORY,
  OPS_AGENT_REPOSITORY,
  repositorySettings,
} from "../constructs/package-sources";
import { DOCKER_MACHINE_VERSION } from "../constructs/versions";
import { resolved, variable } from "./synthesized";

const mirror: AptRepository = {
  url: "https://apt.example/docker",
  keyUrl: "https://apt.example/key.asc",
  keyFingerprint: "0123456789ABCDEF0123456789ABCDEF01234567",
  component: "main",
};

describe("repositorySettings", () => {
  test("is what the host's set-up reads; the suite is the host's own by default", () => {
    expect(repositorySettings("dockerRepository", mirror, ["docker-ce=5:29.*"])).toEqual({
      url: "https://apt.example/docker",
      keyUrl: "https://apt.example/key.asc",
      keyFingerprint: "0123456789ABCDEF0123456789ABCDEF01234567",
      suite: "$CODENAME",
      components: "main",
      packages: ["docker-ce=5:29.*"],
    });
    expect(repositorySettings("dockerRepository", { ...mirror, suite: "noble" }, [])).toMatchObject({ suite: "noble" });
  });

  test.each([DOCKER_REPOSITORY, GITLAB_RUNNER_REPOSITORY, OPS_AGENT_REPOSITORY])(
    "takes the repository of $url",
    (repository) => {
      repositorySettings("repository", repository, []);
    },
  );

  test.each([
    ["url", "apt.example/docker", "be a URL that begins with https:// or http://"],
    ["keyUrl", "file:///key", "be a URL that begins with https:// or http://"],
    ["keyFingerprint", "0EBFCD88", "be a key fingerprint of 40 hexadecimal digits"],
  ])("%s against the rules", (property, value, must) => {
    expect(() => repositorySettings("dockerRepository", { ...mirror, [property]: value }, [])).toThrow(
      new Error(`'dockerRepository.${property}' must ${must}, got "${value}"`),
    );
  });

  test("does not judge variables", () => {
    resolved((stack) => {
      const value = variable(stack).stringValue;
      repositorySettings("r", { url: value, keyUrl: value, keyFingerprint: value, component: value }, [value]);
      return "";
    });
  });
});

describe("dockerMachineSettings", () => {
  test("without a checksum the download is not checked", () => {
    expect(dockerMachineSettings(DOCKER_MACHINE_DOWNLOAD)).toEqual({ url: DOCKER_MACHINE_DOWNLOAD.url, sha256: "" });
    expect(DOCKER_MACHINE_DOWNLOAD.url).toContain(DOCKER_MACHINE_VERSION);
  });

  test("carries the checksum", () => {
    const sha256 = "0a".repeat(32);
    expect(dockerMachineSettings({ url: "https://x.example/docker-machine", sha256 })).toEqual({
      url: "https://x.example/docker-machine",
      sha256,
    });
  });

  test.each([
    ["url", "/usr/bin/docker-machine", "be a URL that begins with https:// or http://"],
    ["sha256", "0a", "be a SHA-256 checksum of 64 hexadecimal digits"],
  ])("%s against the rules", (property, value, must) => {
    expect(() => dockerMachineSettings({ ...DOCKER_MACHINE_DOWNLOAD, [property]: value })).toThrow(
      new Error(`'dockerMachine.${property}' must ${must}, got "${value}"`),
    );
  });
});
