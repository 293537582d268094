import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { type AddressInfo } from "node:net";
import { delimiter, join } from "node:path";
import { type PrometheusMetric, REGISTRY_METRICS, RUNNER_METRICS } from "../../constructs/prometheus-metrics";
import { describeIf, isOnPath, programAvailable, temporaryFolder } from "./programs";

/** One line of the exposition format. */
interface Sample {
  readonly name: string;
  readonly labels: { readonly [label: string]: string };
}

function samples(text: string): Sample[] {
  return text
    .split("\n")
    .filter((line) => /^[a-z]/.test(line))
    .map((line) => ({
      name: /^[a-z_]+/.exec(line)![0],
      labels: Object.fromEntries(
        [...line.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)].map(([, label, value]) => [label, value]),
      ),
    }));
}

/** Which of the label's values, or the whole metric, is not among the samples. */
function missing({ name, labels }: PrometheusMetric, served: Sample[]): string[] {
  const histogram = name.endsWith("_duration_seconds");
  const own = served.filter((sample) => sample.name === (histogram ? `${name}_bucket` : name));
  if (own.length === 0) {
    return [name];
  }
  return Object.entries({ ...labels, ...(histogram ? { le: [] } : {}) }).flatMap(([label, values]) =>
    (values.length === 0 ? [".+"] : values)
      .filter((value) => !own.some((sample) => new RegExp(`^(?:${value})$`).test(sample.labels[label] ?? "")))
      .map((value) => `${name}{${label}=~"${value}"}`),
  );
}

/** A docker-machine whose first VM cannot be made, and whose others have no Docker. */
const DOCKER_MACHINE = `#!/bin/bash
machine=$MACHINE_STORAGE_PATH/machines/\${*: -1}
case $2 in
  create)
    mkdir "$MACHINE_STORAGE_PATH/failed" 2>/dev/null && { echo 'Quota exceeded' >&2; exit 1; }
    mkdir -p "$machine" && echo '{"DriverName": "google"}' >"$machine/config.json" ;;
  rm) rm -rf "$machine" ;;
  url) echo tcp://127.0.0.1:1 ;;
  inspect) echo "$MACHINE_STORAGE_PATH/certs" ;;
esac
`;

const JOB = {
  id: 1,
  token: "glcbt-1",
  allow_git_fetch: false,
  job_info: { name: "job", stage: "test", project_id: 1, project_name: "p", time_in_queue_seconds: 7 },
  git_info: { repo_url: "http://127.0.0.1:1/a.git", ref: "main", sha: "0".repeat(40), refspecs: [], depth: 1 },
  runner_info: { timeout: 3600 },
  variables: [],
  steps: [{ name: "script", script: ["true"], timeout: 3600, when: "on_success", allow_failure: false }],
  image: { name: "alpine:latest" },
};

/** A GitLab with one job for whoever asks first. */
function gitlab(): Server {
  let given = false;
  return createServer((request, response) => {
    request.resume().on("end", () => {
      if (request.url === "/api/v4/jobs/request" && !given) {
        given = true;
        response.writeHead(201, { "content-type": "application/json" }).end(JSON.stringify(JOB));
      } else if (request.url === "/api/v4/jobs/request") {
        response.writeHead(204).end();
      } else {
        response.writeHead(request.method === "PATCH" ? 202 : 200, { "job-status": "running", range: "0-1" }).end();
      }
    });
  });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Looks until nothing is missing: a job's metrics are there while it runs only. Returns what never was there. */
async function lookFor(metrics: PrometheusMetric[], port: number, seconds: number): Promise<string[]> {
  const served: Sample[] = [];
  const lost = () => metrics.flatMap((metric) => missing(metric, served));
  for (const end = Date.now() + seconds * 1000; lost().length > 0 && Date.now() < end;) {
    const text = await fetch(`http://127.0.0.1:${port}/metrics`).then(
      (answer) => answer.text(),
      () => "",
    );
    served.push(...samples(text));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return lost();
}

describeIf(programAvailable("gitlab-runner"))("gitlab-runner", () => {
  const folder = temporaryFolder();
  let server: Server;
  let runner: ChildProcess;
  let port: number;

  beforeAll(async () => {
    server = gitlab().listen(0, "127.0.0.1");
    await once(server, "listening");
    port = await freePort();
    mkdirSync(join(folder, "machines"));
    writeFileSync(join(folder, "docker-machine"), DOCKER_MACHINE);
    chmodSync(join(folder, "docker-machine"), 0o755);
    writeFileSync(
      join(folder, "config.toml"),
      `concurrent = 2
check_interval = 1
listen_address = "127.0.0.1:${port}"
[[runners]]
name = "a"
url = "http://127.0.0.1:${(server.address() as AddressInfo).port}"
token = "glrt-abcdefghijklmnopqrst"
executor = "docker+machine"
limit = 2
[runners.docker]
image = "alpine"
[runners.machine]
IdleCount = 0
MachineDriver = "google"
MachineName = "%s"
`,
    );
    runner = spawn("gitlab-runner", ["run", "--config", join(folder, "config.toml")], {
      stdio: "ignore",
      env: {
        ...process.env,
        MACHINE_STORAGE_PATH: folder,
        HOME: folder,
        PATH: [folder, process.env["PATH"]].join(delimiter),
      },
    });
  });

  afterAll(async () => {
    const ended = once(runner, "exit");
    runner.kill("SIGKILL");
    await ended;
    server.closeAllConnections();
    server.close();
  });

  test("serves everything that the alerts and the dashboard read, with those labels and values", async () => {
    expect(await lookFor(Object.values(RUNNER_METRICS), port, 60)).toEqual([]);
  });

  test("is known by the same name in the metrics that are joined by it", async () => {
    const served = samples(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text());
    const runners = (name: string) => [
      ...new Set(served.filter((sample) => sample.name === name).map(({ labels }) => labels["runner"])),
    ];
    expect(runners(RUNNER_METRICS.apiRequests.name)).toEqual(runners(RUNNER_METRICS.limit.name));
  });
});

// Not one of the programs that everybody needs here: the lab has it.
describeIf(isOnPath("registry"))("the registry", () => {
  const folder = temporaryFolder();
  let upstream: Server;
  let registry: ChildProcess;
  let port: number;

  beforeAll(async () => {
    upstream = createServer((_, response) => response.end("{}")).listen(0, "127.0.0.1");
    await once(upstream, "listening");
    port = await freePort();
    writeFileSync(
      join(folder, "config.yml"),
      `version: 0.1\nstorage: { filesystem: { rootdirectory: ${folder}/data } }\nhttp: { addr: "127.0.0.1:0" }\n`,
    );
    registry = spawn("registry", ["serve", join(folder, "config.yml")], {
      stdio: "ignore",
      // As in compose.yaml.hbs.
      env: {
        ...process.env,
        REGISTRY_PROXY_REMOTEURL: `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`,
        REGISTRY_HTTP_DEBUG_ADDR: `127.0.0.1:${port}`,
        REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED: "true",
        REGISTRY_HTTP_DEBUG_PROMETHEUS_PATH: "/metrics",
        OTEL_TRACES_EXPORTER: "none",
      },
    });
  });

  afterAll(async () => {
    const ended = once(registry, "exit");
    registry.kill("SIGKILL");
    await ended;
    upstream.closeAllConnections();
    upstream.close();
  });

  test("serves everything that the dashboard reads", async () => {
    expect(await lookFor(Object.values(REGISTRY_METRICS), port, 30)).toEqual([]);
  });
});
