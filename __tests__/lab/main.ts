import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { CACHE_HOST, Lab, RUNNER_HOST } from "./lab";
import { Network } from "./network";
import { ProcessGroup } from "./process-group";
import { missing } from "./programs";
import { Report, type Result } from "./report";
import { LOGS, STATE } from "./settings";
import { changes } from "./steps/changes";
import { deploy } from "./steps/deploy";
import { destroy, noDrift } from "./steps/destroy";
import { disks } from "./steps/disks";
import { doctor } from "./steps/doctor";
import { drain } from "./steps/drain";
import { cacheHostFails, unluckyDeployment, wrongKeyDeployment } from "./steps/faults";
import { cacheHost, cacheHostAgain, quietTimers, runnerHost } from "./steps/hosts";
import { firstJobs, idleWorkersGo, manyJobs } from "./steps/jobs";
import { leftovers } from "./steps/leftovers";
import { monitoring } from "./steps/monitoring";
import { rotation } from "./steps/rotation";
import { ProcessListWatch, secrets } from "./steps/secrets";
import type { Deployment } from "./terraform";
import { Vm } from "./vm";

const USAGE = "Usage: npm run lab [-- [--keep] [--only PART,…] | on VM [COMMAND…] | down]";

/** What is done with the stack once it is deployed, in this order. */
const PARTS: { readonly [name: string]: (lab: Lab, report: Report, deployment: Deployment) => Promise<void> } = {
  jobs: async (lab, report, deployment) => {
    const watch = new ProcessListWatch();
    await Promise.all([cacheHost(lab, report), runnerHost(lab, report)]);
    // It takes a while, most of which it waits.
    const wrongKey = wrongKeyDeployment(lab, report);
    const firstPull = await firstJobs(lab, report);
    await Promise.all([idleWorkersGo(lab, report), cacheHostAgain(lab, report, deployment)]);
    await manyJobs(lab, report, deployment, firstPull);
    await quietTimers(lab, report);
    await secrets(lab, report, deployment, watch);
    await noDrift(report, deployment);
    await Promise.all([cacheHostFails(lab, report), unluckyDeployment(lab, report), wrongKey]);
  },
  changes,
  rotation,
  disks,
  doctor,
  monitoring,
  drain,
  leftovers,
};

/** Inside the lab's network, where all servers are. */
async function inside(parts: readonly string[], keep: boolean): Promise<number> {
  new ProcessGroup("main").enter();
  const report = new Report();
  const lab = new Lab();
  lab.compute.changes.on("status", (text: string) => {
    if (text.includes("gitlab-runner/")) {
      report.say(`     ${text}`);
    }
  });
  await lab.start();
  report.say("The lab is up");
  await steps(lab, report, parts, keep).catch((error: Error) =>
    report.check("The steps themselves", () => {
      throw error;
    }),
  );
  process.send!(report.results);
  if (keep) {
    report.print();
    console.log(`\n${howToLook(lab)}`);
    await once(process, "SIGTERM");
  }
  return report.failed === 0 ? 0 : 1;
}

async function steps(lab: Lab, report: Report, parts: readonly string[], keep: boolean): Promise<void> {
  const deployment = await deploy(lab, report);
  if (!deployment) {
    return;
  }
  for (const name of parts) {
    report.say(`---- ${name}`);
    await PARTS[name](lab, report, deployment);
  }
  if (!keep) {
    await destroy(lab, report, deployment);
  }
}

function howToLook(lab: Lab): string {
  const vms = lab.compute.all.map(({ name, address }) => `  ${name.padEnd(40)} ${address}`);
  return `The lab stays until Ctrl-C, or: npm run lab -- down
VMs:
${vms.join("\n")}
A shell on one:    npm run lab -- on ${RUNNER_HOST}
A command on one:  npm run lab -- on ${CACHE_HOST} docker ps
Terraform:         ${join(STATE, "deployments/main/stacks/gitlab-runner")}
Logs:              ${LOGS}`;
}

/** A command, or a shell, on a VM of a lab that runs. */
async function on(name: string, command: readonly string[]): Promise<number> {
  const [program, ...args] = Vm.inside(name, command.length > 0 ? command : ["bash", "-l"]);
  const [status] = (await once(spawn(program, args, { stdio: "inherit" }), "exit")) as [number | null];
  return status ?? 1;
}

/** Outside: makes what is kept, and the network, and takes the network down whatever happens inside. */
async function outside(options: readonly string[]): Promise<number> {
  const problem = missing();
  if (problem !== undefined) {
    console.error(problem);
    return 2;
  }
  const report = new Report();
  const made = await report.check("The lab can be made", async () => {
    await Lab.prepare((text) => report.say(text));
    await Lab.create();
  });
  if (made) {
    report.results.push(...(await resultsFromInside(options)));
  }
  await report.check("npm run lab -- down leaves nothing", async () => {
    await Lab.down();
    assert.deepEqual(await Lab.leftovers(), []);
  });
  report.print();
  return report.failed === 0 ? 0 : 1;
}

async function resultsFromInside(options: readonly string[]): Promise<readonly Result[]> {
  const node = [process.execPath, ...process.execArgv, __filename, "inside", ...options];
  const [program, ...args] = Network.inside(node);
  const child = spawn(program, args, { stdio: ["inherit", "inherit", "inherit", "ipc"] });
  // Ctrl-C reaches the process inside too, which ends by it.
  process.on("SIGINT", () => {}).on("SIGTERM", () => child.kill("SIGTERM"));
  let results: readonly Result[] | undefined;
  child.on("message", (message) => (results = message as readonly Result[]));
  await once(child, "exit");
  return (
    results ?? [{ title: "The lab runs to its end", figure: "", seconds: 0, problem: "it was ended, or broke off" }]
  );
}

/** The parts that are wanted, or undefined if the options are none of the lab's. */
function partsOf(args: readonly string[]): readonly string[] | undefined {
  const { values } = parseArgs({
    args: args.filter((arg) => arg !== "inside"),
    options: { keep: { type: "boolean" }, only: { type: "string" } },
  });
  const parts = values.only?.split(",") ?? Object.keys(PARTS);
  return parts.every((part) => part in PARTS) ? parts : undefined;
}

async function main(args: readonly string[]): Promise<number> {
  const [command = ""] = args;
  switch (command) {
    case "inside":
      return inside(partsOf(args)!, args.includes("--keep"));
    case "on":
      return on(args[1], args.slice(2));
    case "down":
      await Lab.down();
      return 0;
  }
  if (partsOf(args) !== undefined) {
    return outside(args);
  }
  console.error(USAGE);
  return 2;
}

void main(process.argv.slice(2)).then(
  (status) => process.exit(status),
  (error: Error) => {
    console.error(error.message);
    process.exit(1);
  },
);
