import assert from "node:assert/strict";
import { parse } from "smol-toml";
import { until } from "../commands";
import { BUILD_CACHE_KEYS_SECRET, CACHE_HOST, Lab, RUNNER_HOST } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";
import type { Vm } from "../vm";

const CONFIG = "/etc/gitlab-runner/config.toml";

interface RunnerConfig {
  readonly runners: readonly {
    readonly token: string;
    readonly machine: { readonly MachineOptions: readonly string[]; readonly MaxBuilds: number };
    readonly cache: { readonly s3: { readonly AccessKey: string; readonly SecretKey: string } };
  }[];
}

/** What is on the runner host in config.toml. */
export async function runnerConfig(lab: Lab): Promise<RunnerConfig["runners"][number]> {
  const text = await lab.compute.find(RUNNER_HOST).vm.execute(["cat", CONFIG]);
  return (parse(text) as unknown as RunnerConfig).runners[0];
}

/** The cache host serves what it is for. */
export async function cacheHost(lab: Lab, report: Report): Promise<void> {
  const cache = lab.compute.find(CACHE_HOST);
  const { vm: neighbour } = lab.compute.find(RUNNER_HOST);
  await report.check("Cache host: mirror on 6000, S3 on 9005, bucket runner as /export/runner", async () => {
    const status = (path: string) =>
      neighbour.shell(`curl -s -o /dev/null -w '%{http_code}' http://${cache.address}:${path}`);
    assert.equal(await status("6000/v2/"), "200");
    assert.equal(await status("9005/runner/nothing"), "403", "an anonymous client must not read");
    await cache.vm.execute(["test", "-d", "/export/runner"]);
    await cache.vm.execute(["mountpoint", "-q", "/srv/cache"]);
  });
  await report.check("Firewall: from the runner host only these two ports, to it nothing", async () => {
    const open = (from: Vm, address: string, port: number) =>
      from.shell(`timeout 1 bash -c '</dev/tcp/${address}/${port}'`).then(
        () => true,
        () => false,
      );
    const runner = lab.compute.find(RUNNER_HOST);
    const ports = [22, 6000, 9005];
    assert.deepEqual(await Promise.all(ports.map((port) => open(runner.vm, cache.address, port))), [false, true, true]);
    assert.equal(await open(cache.vm, runner.address, 22), false);
  });
}

/** The runner host can do what it is for. */
export async function runnerHost(lab: Lab, report: Report): Promise<void> {
  const { vm } = lab.compute.find(RUNNER_HOST);
  await report.check("Runner host: docker run hello-world", async () => {
    assert.match(await vm.execute(["docker", "run", "--rm", "hello-world"]), /Hello from Docker!/);
  });
  await report.check("Runner host: docker-machine create, ls, rm testcoba", async () => {
    const { machine } = await runnerConfig(lab);
    const options = machine.MachineOptions.map((option) => `--${option}`);
    const dockerMachine = (...args: string[]) =>
      vm.execute(["env", "MACHINE_STORAGE_PATH=/var/lib/docker-machine", "docker-machine", ...args]);
    const start = Date.now();
    const output = await dockerMachine("create", "--driver", "google", ...options, "testcoba");
    assert.match(output, /Docker is up and running!/);
    const seconds = (Date.now() - start) / 1000;
    assert.match(await dockerMachine("ls"), /^testcoba .* Running /m);
    const labels = lab.compute.find("testcoba").currentLabels;
    assert.equal(labels["gitlab-runner-manager"], RUNNER_HOST, "the owner's label is missing");
    await dockerMachine("rm", "-y", "testcoba");
    assert.deepEqual(
      lab.compute.everything.filter((path) => path.includes("testcoba")),
      [],
    );
    return `created in ${seconds.toFixed(1)} s`;
  });
  await report.check("Runner host: gitlab-runner verify", async () => {
    assert.match(await vm.shell("gitlab-runner verify 2>&1"), /Verifying runner.* is valid/);
  });
  await report.check("Runner host: config.toml is 0600 and has the secrets", async () => {
    assert.equal(await vm.execute(["stat", "-c", "%a %U", CONFIG]), "600 root\n");
    const { token, cache } = await runnerConfig(lab);
    assert.equal(token, lab.runnerToken);
    const [keys] = lab.secrets.payloads(BUILD_CACHE_KEYS_SECRET);
    assert.deepEqual({ access_key: cache.s3.AccessKey, secret_key: cache.s3.SecretKey }, JSON.parse(keys));
  });
  await report.check("GitLab shows one runner manager online", async () => {
    const online = await until("a question for a job", 10, () => {
      const recent = [...lab.gitlab.managers].filter(([, time]) => Date.now() - time < 10_000);
      return recent.length > 0 && recent;
    });
    assert.equal(online.length, 1);
    return online[0][0];
  });
}

/** After jobs: a cache host that is started again or made again has what it had. */
export async function cacheHostAgain(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const cache = () => lab.compute.find(CACHE_HOST);
  const inventory = () =>
    cache().vm.shell(
      "cd /srv/cache && find export registry -type f -not -name scheduler-state.json | sort | xargs sha256sum",
    );
  const answers = async () => {
    const ports = [6000, 9005];
    await until("mirror and build cache answer", 120, async () => {
      const { vm } = lab.compute.find(RUNNER_HOST);
      await vm.shell(ports.map((port) => `curl -s -o /dev/null http://${cache().address}:${port}/`).join(" && "));
      return true;
    });
  };
  await report.check("Cache host: containers and data are back after a reboot", async () => {
    const before = await inventory();
    const start = Date.now();
    await cache().vm.reboot();
    await answers();
    assert.equal((await cache().vm.execute(["docker", "ps", "-q"])).trim().split("\n").length, 2);
    assert.equal(await inventory(), before);
    return `answers again after ${((Date.now() - start) / 1000).toFixed(1)} s`;
  });
  await report.check("Cache host: a new VM with the same disk keeps cache, images and keys", async () => {
    const before = await inventory();
    const { id, address } = cache();
    const keys = lab.secrets.payloads(BUILD_CACHE_KEYS_SECRET);
    await deployment.replace("google_compute_instance", "CacheHost");
    assert.notEqual(cache().id, id);
    assert.equal(cache().address, address);
    assert.equal(cache().guestAttributes.get("gitlab-runner/status"), "ready");
    assert.equal(await inventory(), before);
    assert.deepEqual(lab.secrets.payloads(BUILD_CACHE_KEYS_SECRET), keys);
  });
}

/** Whoever keeps journals pays for every line. */
export async function quietTimers(lab: Lab, report: Report): Promise<void> {
  await report.check("Timers leave no line in the journal when there is nothing to tell", async () => {
    for (const [host, unit] of [
      [RUNNER_HOST, "runner-host-workers"],
      [CACHE_HOST, "cache-host-prune"],
    ]) {
      const { vm } = lab.compute.find(host);
      assert.notEqual(await vm.shell(`systemctl show -p ExecMainStartTimestamp --value ${unit}`), "\n");
      assert.equal(
        await vm.shell(`journalctl -q -o cat -u ${unit} | grep '^Starting\\|^Finished\\|Deactivated' || true`),
        "",
      );
    }
  });
}
