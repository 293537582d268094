import { GoogleProvider } from "@cdktf/provider-google/lib/provider";
import { NullProvider } from "@cdktf/provider-null/lib/provider";
import { App, TerraformStack } from "cdktf";
import { Construct } from "constructs";
import { CacheHost, DockerMachineWorkers, RunnerHost, RunnerNetwork, RunnerRegistration } from "../../constructs"; // elsewhere: "cdktf-gitlab-runner-gce"

interface TeamProps {
  readonly project: string;
  readonly region: string;
  readonly zone: string;
}

/** All that one team has: a network, a cache and a runner of its own. Names are made from the construct's path. */
class Team extends Construct {
  constructor(scope: Construct, id: string, { project, region, zone }: TeamProps) {
    super(scope, id);
    const network = new RunnerNetwork(this, "network", { project, region });
    const cacheHost = new CacheHost(this, "cache", { project, zone, network });
    const host = new RunnerHost(this, "manager", { project, zone, network });
    new RunnerRegistration(this, "runner", {
      host,
      cacheHost,
      gitlabUrl: "https://gitlab.com",
      token: { project, secretId: `${id}-runner-token` },
      workers: new DockerMachineWorkers(this, "workers", { project, zone, network }),
    });
  }
}

/** Two teams in one project and one stack that share nothing. */
export class TwoTeams extends TerraformStack {
  constructor(scope: Construct, id: string) {
    super(scope, id);
    const props: TeamProps = { project: "two-teams-ci", region: "us-east1", zone: "us-east1-b" };
    new GoogleProvider(this, "google", { project: props.project });
    new NullProvider(this, "null");
    new Team(this, "red", props);
    new Team(this, "blue", props);
  }
}

if (require.main === module) {
  const app = new App();
  new TwoTeams(app, "ci");
  app.synth();
}
