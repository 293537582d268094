import { ComputeSubnetworkIamMember } from "@cdktf/provider-google/lib/compute-subnetwork-iam-member";
import { GoogleProvider } from "@cdktf/provider-google/lib/provider";
import { NullProvider } from "@cdktf/provider-null/lib/provider";
import { App, TerraformStack, TerraformVariable } from "cdktf";
import { Construct } from "constructs";
import { CacheHost, DockerMachineWorkers, RunnerHost, RunnerRegistration, RunnerTokenSecret } from "../../constructs"; // elsewhere: "cdktf-gitlab-runner-gce"

/**
 * Two runners on one host, in a shared VPC that exists. The first keeps VMs ready while people work and none at other times;
 * the second runs privileged jobs, each on a VM of its own. The tokens come in as ephemeral variables.
 */
export class OfficeHours extends TerraformStack {
  constructor(scope: Construct, id: string) {
    super(scope, id);
    const project = "ci-production";
    const zone = "europe-west3-b";
    const network = {
      project: "network-host",
      network: "projects/network-host/global/networks/shared",
      subnetwork: "projects/network-host/regions/europe-west3/subnetworks/ci",
    };
    const labels = { team: "platform", "cost-center": "4711" };
    new GoogleProvider(this, "google", { project, zone });
    new NullProvider(this, "null");

    const cacheHost = new CacheHost(this, "CacheHost", {
      project,
      zone,
      network,
      labels,
      name: "ci-cache",
      machineType: "e2-standard-2",
      cacheDiskGb: 500,
      dockerHubUsername: "acme-ci",
      dockerHubToken: { project, secretId: "docker-hub-token" },
    });
    const host = new RunnerHost(this, "RunnerHost", {
      project,
      zone,
      network,
      labels,
      name: "ci-manager",
      concurrent: 60,
    });
    // A manager of a service project makes its workers in the host project's subnetwork.
    new ComputeSubnetworkIamMember(this, "ManagerUsesSubnetwork", {
      project: network.project,
      region: "europe-west3",
      subnetwork: "ci",
      role: "roles/compute.networkUser",
      member: `serviceAccount:${host.serviceAccountEmail}`,
    });

    new RunnerRegistration(this, "General", {
      host,
      cacheHost,
      name: "general",
      gitlabUrl: "https://gitlab.example.com",
      token: this.token("general", project),
      requestConcurrency: 5,
      docker: { image: "debian:stable-slim", pullPolicy: ["always", "if-not-present"] },
      workers: new DockerMachineWorkers(this, "GeneralWorkers", {
        project,
        zone,
        network,
        labels,
        name: "ci-general",
        machineType: "n2-standard-4",
        spot: true,
        limit: 40,
        maxBuilds: 20,
        maxGrowthRate: 10,
        autoscaling: [
          {
            periods: ["* * 8-18 * * mon-fri *"],
            timezone: "Europe/Berlin",
            idleCount: 10,
            idleCountMin: 2,
            idleScaleFactor: 1,
            idleTime: 1200,
          },
          { periods: ["* * * * * sat,sun *"], timezone: "Europe/Berlin", idleCount: 0, idleTime: 300 },
        ],
      }),
    });

    new RunnerRegistration(this, "Images", {
      host,
      cacheHost,
      name: "images",
      gitlabUrl: "https://gitlab.example.com",
      token: this.token("images", project),
      docker: {
        image: "docker:28",
        privileged: true,
        allowedPrivilegedImages: ["docker.io/library/docker:*"],
        allowedPrivilegedServices: ["docker.io/library/docker:*"],
      },
      workers: new DockerMachineWorkers(this, "ImagesWorkers", {
        project,
        zone,
        network,
        labels,
        name: "ci-images",
        machineType: "n2-standard-8",
        diskGb: 200,
        limit: 10,
        maxBuilds: 1,
      }),
    });
  }

  private token(runner: string, project: string): RunnerTokenSecret {
    const variable = new TerraformVariable(this, `${runner}_token`, {
      type: "string",
      description: `Runner authentication token (glrt-…) of the runner '${runner}'.`,
      sensitive: true,
      nullable: false,
    });
    // cdktf has no such property: with it the value is in neither plan nor state.
    variable.addOverride("ephemeral", true);
    return new RunnerTokenSecret(this, `${runner}-token`, {
      project,
      secretId: `ci-${runner}-token`,
      token: variable.stringValue,
    });
  }
}

if (require.main === module) {
  const app = new App();
  new OfficeHours(app, "office-hours");
  app.synth();
}
