import { App } from "cdktf";
import { GitlabRunnerStack } from "../../main";
import type { AptRepository } from "../../constructs";

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
new GitlabRunnerStack(app, "gitlab-runner", {
  cacheHost: { ...docker, registryImage: settings.registryImage, buildCacheImage: settings.buildCacheImage },
  runnerHost: {
    ...docker,
    gitlabRunnerRepository: repository(settings.gitlabRunnerUrl, "main"),
    dockerMachine: { url: settings.dockerMachineUrl },
  },
});
app.synth();
