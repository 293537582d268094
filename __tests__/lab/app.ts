import { App } from "cdktf";
import { GitlabRunnerStack } from "../../main";
import { type AptRepository, RunnerRegistration, type TomlTable } from "../../constructs";
import { GITLAB_HOST, PROJECT } from "./settings";

/** The ready stack as it is, but for where its programs come from. */
const settings = JSON.parse(process.env["LAB_APP"]!) as AppSettings;

export interface AppSettings {
  readonly dockerUrl: string;
  readonly dockerPackages: string[];
  readonly gitlabRunnerUrl: string;
  readonly keyUrl: string;
  readonly keyFingerprint: string;
  readonly dockerMachineUrl: string;
  readonly registryImage: string;
  readonly buildCacheImage: string;
  /** Seconds. */
  readonly managerTimeout?: number;
  readonly metricsClientRanges?: string[];
  readonly runnerHostMachineType?: string;
  /** For config.toml. */
  readonly overrides?: TomlTable;
  /** Id of a second runner's token, on the same host. */
  readonly secondRunner?: string;
}

const repository = (url: string, component: string): AptRepository => ({
  url,
  component,
  keyUrl: settings.keyUrl,
  keyFingerprint: settings.keyFingerprint,
});
const docker = {
  dockerRepository: repository(settings.dockerUrl, "stable"),
  dockerPackages: settings.dockerPackages,
};

const app = new App();
const stack = new GitlabRunnerStack(app, "gitlab-runner", {
  cacheHost: {
    ...docker,
    registryImage: settings.registryImage,
    buildCacheImage: settings.buildCacheImage,
    metricsClientRanges: settings.metricsClientRanges,
  },
  workers: { managerTimeout: settings.managerTimeout },
  runnerHost: {
    ...docker,
    machineType: settings.runnerHostMachineType,
    metricsClientRanges: settings.metricsClientRanges,
    overrides: settings.overrides,
    gitlabRunnerRepository: repository(settings.gitlabRunnerUrl, "main"),
    dockerMachine: { url: settings.dockerMachineUrl },
  },
});
const { runnerHost: host, workers, cacheHost } = stack;
if (settings.secondRunner !== undefined) {
  const token = { project: PROJECT, secretId: settings.secondRunner };
  new RunnerRegistration(stack, "Second", { host, workers, cacheHost, token, gitlabUrl: `https://${GITLAB_HOST}` });
}
app.synth();
