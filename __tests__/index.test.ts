import * as library from "../constructs";

test("the library's public surface: its constructs, and the values that they are given by default", () => {
  expect(Object.keys(library).sort()).toEqual([
    "BuildCacheServer",
    "CacheHost",
    "DOCKER_MACHINE_DOWNLOAD",
    "DOCKER_PACKAGES",
    "DOCKER_REPOSITORY",
    "DockerMachineWorkers",
    "GITLAB_RUNNER_REPOSITORY",
    "GITLAB_RUNNER_VERSION",
    "HOST_IMAGE",
    "IMAGES",
    "OPS_AGENT_REPOSITORY",
    "RunnerHost",
    "RunnerMonitoring",
    "RunnerNetwork",
    "RunnerRegistration",
    "RunnerTokenSecret",
    "WORKER_IMAGE",
  ]);
});
