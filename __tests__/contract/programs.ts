import { spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The checkout. */
export const project = join(__dirname, "../..");

/** The programs that these tests run, and where to get them. `.ci/run` gets all of them. */
const HOW_TO_GET = {
  terraform: "1.11 or later: https://developer.hashicorp.com/terraform/install",
  "cloud-init": "apt-get install --no-install-recommends cloud-init",
  "gitlab-runner": "https://docs.gitlab.com/runner/install/",
  "docker-compose": "v2 or later, or the environment variable DOCKER_COMPOSE: https://docs.docker.com/compose/install/",
  shellcheck: "apt-get install shellcheck",
  python3: "apt-get install python3",
  promtool: "it is part of Prometheus: https://prometheus.io/download/",
};
export type Program = keyof typeof HOW_TO_GET;

export function isOnPath(program: string): boolean {
  return spawnSync("which", [program]).status === 0;
}

/** Whether the tests that need this can run. If not, it says why they are skipped; in CI that is a failure. */
export function available(ready: boolean, otherwise: string): boolean {
  if (!ready && process.env["CI"]) {
    throw new Error(otherwise);
  }
  if (!ready) {
    console.warn(`Skipped: ${otherwise}`);
  }
  return ready;
}

export function programAvailable(program: Program): boolean {
  return available(isOnPath(program), `${program} is not on PATH; get it: ${HOW_TO_GET[program]}`);
}

/** `describe`, if what its tests need is available. */
export function describeIf(ready: boolean): jest.Describe {
  return ready ? describe : describe.skip;
}

/** The command of Docker Compose: a program of its own, or Docker's plugin. */
export function dockerCompose(): string[] | undefined {
  const candidates = [["docker", "compose"], ["docker-compose"]];
  if (process.env["DOCKER_COMPOSE"]) {
    candidates.unshift(process.env["DOCKER_COMPOSE"].split(" "));
  }
  const command = candidates.find(([program, ...args]) => {
    const { status, stdout } = spawnSync(program, [...args, "version", "--short"], { encoding: "utf8" });
    return status === 0 && Number(/^v?(\d+)\./.exec(stdout)?.[1]) >= 2;
  });
  return available(command !== undefined, `there is no Docker Compose; get it: ${HOW_TO_GET["docker-compose"]}`)
    ? command
    : undefined;
}

export interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  /** Added to this process's environment; `undefined` takes a variable away. */
  readonly env?: { [name: string]: string | undefined };
  readonly input?: string;
  /** After so many seconds the program and all that it started are killed, and the run is an error. */
  readonly seconds?: number;
}

export function run([program, ...args]: string[], options: RunOptions = {}): Promise<Ended> {
  const { cwd, env, input = "", seconds = 120 } = options;
  return new Promise((resolve, reject) => {
    // A process group of its own: Terraform's providers would outlive it.
    const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, detached: true });
    const text = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"] as const) {
      child[stream].setEncoding("utf8").on("data", (data: string) => (text[stream] += data));
    }
    const timer = setTimeout(() => {
      process.kill(-child.pid!, "SIGKILL");
      reject(new Error(`not done after ${seconds} s: ${program} ${args.join(" ")}\n${text.stdout}${text.stderr}`));
    }, seconds * 1000);
    child.on("error", reject);
    child.on("close", (status) => {
      clearTimeout(timer);
      resolve({ status, ...text });
    });
    child.stdin.on("error", () => {}).end(input);
  });
}

/** The standard output of a run that has to work. */
export async function outputOf(command: string[], options?: RunOptions): Promise<string> {
  const ended = await run(command, options);
  if (ended.status !== 0) {
    // Terraform repeats the line that it means, which may have megabytes.
    const text = `${ended.stdout}${ended.stderr}`.replace(/.{1000,}/g, (line) => `${line.slice(0, 1000)} …`);
    throw new Error(`${command.join(" ")} ended with ${ended.status}:\n${text.slice(0, 20_000)}`);
  }
  return ended.stdout;
}

/** A folder that is there for the tests of the `describe`, or the file, that asks for it. */
export function temporaryFolder(): string {
  const folder = join(tmpdir(), `gitlab-runner-gce-${randomUUID()}`);
  // Not here and now: it would stay when all these tests are skipped.
  beforeAll(() => mkdirSync(folder));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
