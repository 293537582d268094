import { stripVTControlCharacters } from "node:util";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { cpSync, createWriteStream, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:https";
import { join } from "node:path";
import { parse } from "yaml";
import { run, until } from "./commands";
import { serveFile } from "./file-server";
import type { Tls } from "./google/server";
import { ADDRESSES, GITLAB_HOST, LOGS, STATE } from "./settings";

const PROJECT = join(__dirname, "belajar-ci");
const REPOSITORY_URL = `https://${GITLAB_HOST}/family/belajar-ci.git`;

/** A job of .gitlab-ci.yml. */
interface JobDefinition {
  readonly image?: string;
  readonly services?: readonly string[];
  readonly script: readonly string[];
  readonly variables?: { readonly [name: string]: string };
  readonly cache?: { readonly key: string; readonly paths: readonly string[] };
  readonly retry?: { readonly max: 1; readonly when: "runner_system_failure" };
}

type State = "pending" | "running" | "success" | "failed";

export class Job {
  state: State = "pending";
  failureReason?: string;
  /** When it was queued, given to a runner, and ended: milliseconds. */
  readonly queued = Date.now();
  taken?: number;
  ended?: number;
  /** The job that was queued in its place, as `retry` has it. */
  secondAttempt?: Job;
  private log = Buffer.alloc(0);

  constructor(
    readonly id: number,
    readonly name: string,
    readonly definition: JobDefinition,
    readonly token: string,
  ) {}

  append(chunk: Buffer): number {
    this.log = Buffer.concat([this.log, chunk]);
    writeFileSync(join(LOGS, `job-${this.id}-${this.name}.log`), this.log);
    return this.log.length;
  }

  /** What the job printed, without colours and section marks. */
  get trace(): string {
    return stripVTControlCharacters(this.log.toString()).replace(/\r/g, "\n");
  }

  /** Name of the VM that it ran on. */
  get worker(): string {
    const match = /via (runner-[a-z0-9-]+)\.\.\./.exec(this.trace) ?? / on (runner-[a-z0-9-]+)\b/.exec(this.trace);
    if (!match) {
      throw new Error(`Job ${this.id} does not say where it ran: ${this.trace.slice(0, 1000)}`);
    }
    return match[1];
  }

  /** Seconds from the queue to the end. */
  get seconds(): number {
    return ((this.ended ?? Date.now()) - this.queued) / 1000;
  }

  async running(seconds = 120): Promise<this> {
    await until(`job ${this.id}, ${this.name}, runs`, seconds, () => /executing "step_script"/i.test(this.trace));
    return this;
  }

  async end(seconds = 240): Promise<this> {
    await until(`the end of job ${this.id}, ${this.name}`, seconds, () => this.ended !== undefined);
    return this;
  }

  async success(seconds?: number): Promise<this> {
    await this.end(seconds);
    if (this.state !== "success") {
      const lines = this.trace.trimEnd().split("\n").slice(-15).join("\n");
      throw new Error(`Job ${this.id}, ${this.name}, failed (${this.failureReason}):\n${lines}`);
    }
    return this;
  }
}

/** Waits for all of them, whatever becomes of one. */
export async function succeed(...jobs: readonly Job[]): Promise<void> {
  await Promise.allSettled(jobs.map((job) => job.end()));
  await Promise.all(jobs.map((job) => job.success()));
}

/** GitLab, as a runner sees it: its API, and a repository to clone. */
export class GitLab {
  readonly jobs: Job[] = [];
  /** The most jobs that ran at once since somebody set this to 0. */
  mostAtOnce = 0;
  /** System id → time of the last question for a job, by which GitLab calls a runner manager online. */
  readonly managers = new Map<string, number>();

  /** Times of all questions for a job by the runner for which there are jobs. */
  readonly questions: number[] = [];
  /** Tokens of runners for which there are never any jobs. */
  readonly otherTokens = new Set<string>();
  /** Token → time of its runner's last question for a job. */
  readonly asked = new Map<string, number>();
  /** It takes no connection. */
  outage = false;
  /** How far its clock is off, in milliseconds. */
  clockError = 0;

  private readonly folder = join(STATE, "git");
  private readonly log = createWriteStream(join(LOGS, "gitlab.jsonl"));
  private readonly definitions = parse(readFileSync(join(PROJECT, ".gitlab-ci.yml"), "utf8"), { merge: true }) as {
    readonly [name: string]: JobDefinition;
  };
  private commit = "";

  /** The runner for which there are jobs. With another token the one before is refused. */
  constructor(public token: string) {}

  async listen(tls: Tls): Promise<void> {
    await this.createRepository();
    const server = createServer(tls, (request, response) => {
      this.answer(request, response).catch((error: Error) => response.writeHead(500).end(error.stack));
    });
    server.on("connection", (socket) => this.outage && socket.destroy());
    await once(server.listen(443, ADDRESSES.gitlab), "listening");
  }

  /** Queues a job of .gitlab-ci.yml. */
  queue(name: string, variables: { readonly [name: string]: string } = {}): Job {
    const definition = this.definitions[name];
    const id = this.jobs.length + 1;
    const token = `glcbt-${createHash("sha256").update(`${id}`).digest("hex").slice(0, 20)}`;
    const job = new Job(id, name, { ...definition, variables: { ...definition.variables, ...variables } }, token);
    this.jobs.push(job);
    return job;
  }

  /** What GitLab does after an hour without a word of the runner: the job has failed. */
  lose(job: Job): void {
    job.state = "failed";
    job.failureReason = "stuck_or_timeout_failure";
    job.ended ??= Date.now();
  }

  /** The longest time since then, in seconds, in which that runner did not ask for a job. */
  longestPause(since: number): number {
    const times = [since, ...this.questions.filter((time) => time > since), Date.now()];
    return Math.max(...times.slice(1).map((time, index) => time - times[index])) / 1000;
  }

  private async createRepository(): Promise<void> {
    const work = join(STATE, "belajar-ci");
    cpSync(PROJECT, work, { recursive: true });
    mkdirSync(join(this.folder, "family"), { recursive: true });
    const git = (...args: string[]) =>
      run("git", ["-C", work, "-c", "user.name=lab", "-c", "user.email=lab@lab.internal", ...args]);
    await git("init", "--quiet", "--initial-branch=main");
    await git("add", "--force", ".");
    await git("commit", "--quiet", "--message=First");
    this.commit = (await git("rev-parse", "HEAD")).trim();
    const bare = join(this.folder, "family", "belajar-ci.git");
    await git("clone", "--quiet", "--bare", work, bare);
    await run("git", ["-C", bare, "update-server-info"]);
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url!, `https://${GITLAB_HOST}`);
    if (this.outage) {
      return void request.destroy();
    }
    response.setHeader("Date", new Date(Date.now() + this.clockError).toUTCString());
    const body = Buffer.concat(await request.toArray());
    const send = (status: number, json?: object, headers: object = {}) => {
      response.writeHead(status, { "Content-Type": "application/json", ...headers });
      response.end(json && JSON.stringify(json));
      this.log.write(`${JSON.stringify({ time: Date.now(), method: request.method, path: url.pathname, status })}\n`);
    };
    const json = () => JSON.parse(body.toString()) as { readonly token: string; readonly [field: string]: unknown };
    if (url.pathname.startsWith("/family/")) {
      return serveFile(this.folder, url.pathname, response);
    }
    switch (`${request.method} ${url.pathname}`) {
      case "POST /api/v4/runners/verify":
        return json().token === this.token || this.otherTokens.has(json().token)
          ? send(200, { id: 1, token: json().token, token_expires_at: null })
          : send(403, { message: "403 Forbidden" });
      case "POST /api/v4/jobs/request":
        return this.giveJob(json(), send);
    }
    const [, id, part] = /^\/api\/v4\/jobs\/(\d+)(\/trace)?$/.exec(url.pathname) ?? [];
    const job = this.jobs[Number(id) - 1];
    if (!job) {
      return send(404, { message: "404 Not Found" });
    }
    if (request.method === "PATCH" && part !== undefined) {
      if (request.headers["job-token"] !== job.token) {
        return send(403, { message: "403 Forbidden" });
      }
      const length = job.append(body);
      return send(202, undefined, {
        "Job-Status": "running",
        Range: `0-${length}`,
        "X-GitLab-Trace-Update-Interval": "1",
      });
    }
    if (request.method === "PUT" && part === undefined) {
      if (json().token !== job.token) {
        return send(403, { message: "403 Forbidden" });
      }
      job.state = json()["state"] as State;
      job.failureReason = json()["failure_reason"] as string | undefined;
      job.ended = job.state === "running" ? undefined : Date.now();
      if (job.failureReason !== undefined && job.failureReason === job.definition.retry?.when) {
        job.secondAttempt = this.queue(job.name, job.definition.variables);
      }
      return send(200, undefined, { "Job-Status": job.state });
    }
    return send(404, { message: "404 Not Found" });
  }

  private giveJob(
    { token, system_id: systemId }: { readonly token: string; readonly [field: string]: unknown },
    send: (status: number, json?: object, headers?: object) => void,
  ): void {
    this.asked.set(token, Date.now());
    if (this.otherTokens.has(token)) {
      return send(204, undefined, { "X-GitLab-Last-Update": "0" });
    }
    if (token !== this.token) {
      return send(403, { message: "403 Forbidden" });
    }
    this.managers.set(String(systemId), Date.now());
    this.questions.push(Date.now());
    const job = this.jobs.find(({ taken }) => taken === undefined);
    if (!job) {
      return send(204, undefined, { "X-GitLab-Last-Update": "0" });
    }
    job.taken = Date.now();
    const running = this.jobs.filter(({ taken, ended }) => taken !== undefined && ended === undefined);
    this.mostAtOnce = Math.max(this.mostAtOnce, running.length);
    send(201, this.payload(job));
  }

  private payload(job: Job): object {
    const { image, services = [], script, variables = {}, cache } = job.definition;
    const all = {
      CI_JOB_ID: `${job.id}`,
      CI_PROJECT_ID: "42",
      CI_PROJECT_PATH: "family/belajar-ci",
      CI_SERVER_URL: `https://${GITLAB_HOST}`,
      CI_REPOSITORY_URL: REPOSITORY_URL,
      ...variables,
    };
    return {
      id: job.id,
      token: job.token,
      allow_git_fetch: true,
      job_info: { id: job.id, name: job.name, stage: "test", project_id: 42, project_name: "belajar-ci" },
      git_info: {
        repo_url: REPOSITORY_URL,
        ref: "main",
        sha: this.commit,
        before_sha: "0".repeat(40),
        ref_type: "branch",
        refspecs: ["+refs/heads/main:refs/remotes/origin/main"],
        depth: 0,
      },
      runner_info: { timeout: 600 },
      variables: Object.entries(all).map(([key, value]) => ({ key, value, public: true })),
      steps: [{ name: "script", script, timeout: 600, when: "on_success", allow_failure: false }],
      ...(image && { image: { name: image } }),
      services: services.map((name) => ({ name })),
      ...(cache && { cache: [{ ...cache, untracked: false, policy: "pull-push", when: "on_success" }] }),
    };
  }
}
