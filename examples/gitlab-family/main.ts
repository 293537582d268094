import { ComputeRouter } from "@cdktf/provider-google/lib/compute-router";
import { ComputeRouterNat } from "@cdktf/provider-google/lib/compute-router-nat";
import { GoogleProvider } from "@cdktf/provider-google/lib/provider";
import { NullProvider } from "@cdktf/provider-null/lib/provider";
import { App, TerraformStack } from "cdktf";
import { Construct } from "constructs";
import { CacheHost, DockerMachineWorkers, RunnerHost, RunnerRegistration } from "../../constructs"; // elsewhere: "cdktf-gitlab-runner-gce"

/**
 * The deployment that a how-to of 2017 described step by step, as it is done today: the project's `default` network, one job
 * at once, small workers that may run five jobs each.
 */
export class GitlabFamily extends TerraformStack {
  constructor(scope: Construct, id: string) {
    super(scope, id);
    const project = "gitlab-family";
    const region = "asia-southeast1";
    const zone = "asia-southeast1-a";
    new GoogleProvider(this, "google", { project, region, zone });
    new NullProvider(this, "null");

    // No VM has a public address: the network needs a way out.
    const router = new ComputeRouter(this, "Router", {
      project,
      region,
      name: "gitlab-runner",
      network: "default",
    });
    const wayOut = new ComputeRouterNat(this, "Nat", {
      project,
      region,
      name: "gitlab-runner",
      router: router.name,
      natIpAllocateOption: "AUTO_ONLY",
      sourceSubnetworkIpRangesToNat: "ALL_SUBNETWORKS_ALL_IP_RANGES",
    });
    const network = { network: "default", subnetwork: "default", wayOut };

    const cacheHost = new CacheHost(this, "CacheHost", {
      project,
      zone,
      network,
      name: "docker-registry-cache",
      registryMirrorPort: 6000,
      buildCachePort: 9005,
      bucket: "runner",
    });
    const host = new RunnerHost(this, "RunnerHost", {
      project,
      zone,
      network,
      name: "gitlab-runner",
      concurrent: 1,
      checkInterval: 0,
    });
    new RunnerRegistration(this, "Runner", {
      host,
      cacheHost,
      name: "gcloud-autoscale",
      gitlabUrl: "https://gitlab.artivisi.id",
      token: { project, secretId: "gitlab-runner-token" },
      docker: {
        tlsVerify: false,
        image: "alpine:latest",
        privileged: true,
        disableCache: false,
        volumes: ["/cache"],
        shmSize: 0,
      },
      workers: new DockerMachineWorkers(this, "Workers", {
        project,
        zone,
        network,
        name: "gitlab-runner-worker",
        machineType: "g1-small",
        limit: 5,
        idleCount: 0,
        idleTime: 600,
        maxBuilds: 5,
        machineName: "%s",
      }),
    });
  }
}

if (require.main === module) {
  const app = new App();
  new GitlabFamily(app, "gitlab-family");
  app.synth();
}
