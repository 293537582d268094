import assert from "node:assert/strict";
import { until } from "../commands";
import type { Instance } from "../google/instance";
import { BUILD_CACHE_KEYS_SECRET, CACHE_HOST, Lab, RUNNER_HOST } from "../lab";
import type { Report } from "../report";
import { ADDRESSES, METADATA_ADDRESS } from "../settings";
import type { Deployment } from "../terraform";

interface Diagnosis {
  readonly ok: boolean;
  readonly checks: readonly { readonly name: string; readonly state: string; readonly detail: string }[];
}

interface Fault {
  readonly host: string;
  /** The one line that has to be named. */
  readonly check: string;
  readonly sentence: RegExp;
  readonly options?: readonly string[];
  readonly inject: () => unknown;
  readonly mend: () => unknown;
}

/** The doctor says what is wrong. */
export async function doctor(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const manager = lab.compute.find(RUNNER_HOST);
  const cache = lab.compute.find(CACHE_HOST);
  deployment.set({ max_builds: 10, idle_time: 60, privileged: false });
  await deployment.apply();
  await manager.vm.shell("runner-host drain && runner-host resume", { timeoutSeconds: 120 });

  await report.check("Both doctors find nothing: exit status 0", async () => {
    const diagnoses = await Promise.all([examine(manager, ["--create-machine"]), examine(cache)]);
    for (const { checks } of diagnoses) {
      assert.deepEqual(
        checks.filter(({ state }) => state === "FAILED"),
        [],
      );
    }
    assert.deepEqual(
      diagnoses[0].checks.filter(({ state }) => state === "skipped"),
      [],
    );
    assert.deepEqual(lab.compute.workers, [], "the test VM is still there");
    return diagnoses.map(({ checks }) => `${checks.length} checks`).join(" and ");
  });
  for (const fault of faults(lab, manager, cache)) {
    await report.check(`doctor on ${fault.host}: ${fault.check}`, async () => {
      await fault.inject();
      try {
        const { checks } = await examine(lab.compute.find(fault.host), fault.options);
        const failed = checks.filter(({ state }) => state === "FAILED");
        assert.deepEqual(
          failed.map(({ name }) => name),
          [fault.check],
          JSON.stringify(failed),
        );
        assert.match(failed[0].detail, fault.sentence);
        return failed[0].detail.slice(0, 100);
      } finally {
        await fault.mend();
      }
    });
  }
  await report.check("All mended, both find nothing again", async () => {
    await until("nothing", 60, async () => {
      const diagnoses = await Promise.all([examine(manager), examine(cache)]);
      const failed = diagnoses.flatMap(({ checks }) => checks.filter(({ state }) => state === "FAILED"));
      assert.deepEqual(failed, []);
      return true;
    });
  });
}

function faults(lab: Lab, manager: Instance, cache: Instance): Fault[] {
  const on = (instance: Instance, script: string) => () => instance.vm.shell(script);
  const reject = (instance: Instance, action: string, to: string) =>
    on(instance, `iptables ${action} OUTPUT -d ${to} -p tcp ! --dport 53 -j REJECT`);
  const configToml = manager.metadata["config-toml"];
  const setConfig = (text: string) => {
    const items = Object.entries({ ...manager.metadata, "config-toml": text });
    manager.setMetadata({ items: items.map(([key, value]) => ({ key, value })) });
    const state = text === configToml ? /^ok$/ : /^failed/;
    return until("the host has seen it", 20, () => state.test(manager.guestAttributes.get("gitlab-runner/config")!));
  };
  const { token } = lab.gitlab;
  const role = () =>
    [...lab.iam.roles.values()].find(
      ({ title, deleted }) => !deleted && title === `GitLab Runner manager ${RUNNER_HOST}`,
    )!;
  const suspended = role();
  return [
    {
      host: RUNNER_HOST,
      check: "services",
      sentence: /Not running: gitlab-runner\.service/,
      inject: on(manager, "systemctl stop gitlab-runner"),
      mend: on(manager, "systemctl start gitlab-runner"),
    },
    {
      host: RUNNER_HOST,
      check: "configuration",
      sentence: /The newest configuration is not in use.*no_such_key/,
      inject: () => setConfig(`no_such_key = 1\n${configToml}`),
      mend: () => setConfig(configToml),
    },
    {
      host: RUNNER_HOST,
      check: "token",
      sentence: /GitLab refuses the token/,
      inject: () => (lab.gitlab.token = "glrt-somebody-else"),
      mend: () => (lab.gitlab.token = token),
    },
    {
      host: RUNNER_HOST,
      check: "gitlab",
      sentence: /GitLab does not answer at https:\/\//,
      inject: () => (lab.gitlab.outage = true),
      mend: () => (lab.gitlab.outage = false),
    },
    {
      host: RUNNER_HOST,
      check: "clock",
      sentence: /The clock is 3[56]\d\d s behind GitLab's/,
      inject: () => (lab.gitlab.clockError = 3_600_000),
      mend: () => (lab.gitlab.clockError = 0),
    },
    {
      host: RUNNER_HOST,
      check: "dns",
      sentence: /No address is found for/,
      inject: on(manager, "systemctl stop systemd-resolved"),
      mend: on(manager, "systemctl start systemd-resolved"),
    },
    {
      host: RUNNER_HOST,
      check: "metadata",
      sentence: /The metadata server does not answer/,
      inject: reject(manager, "-I", METADATA_ADDRESS),
      mend: reject(manager, "-D", METADATA_ADDRESS),
    },
    {
      host: RUNNER_HOST,
      check: "google",
      sentence: /may not list VMs: it needs compute\.instances\.list/,
      // The reaper's look fails too, and is no second failure.
      inject: () => {
        suspended.deleted = true;
        return manager.vm.shell("systemctl start runner-host-workers");
      },
      mend: () => (suspended.deleted = false),
    },
    {
      host: RUNNER_HOST,
      check: "mirror",
      sentence: /The registry mirror at http:\S+ does not answer/,
      inject: on(cache, "docker stop cache-registry-mirror-1"),
      mend: on(cache, "docker start cache-registry-mirror-1"),
    },
    {
      host: RUNNER_HOST,
      check: "cache",
      sentence: /cache-host doctor/,
      inject: on(cache, "docker stop cache-build-cache-1"),
      mend: on(cache, "docker start cache-build-cache-1"),
    },
    {
      host: RUNNER_HOST,
      check: "machine",
      sentence: /No worker VM can be made: .*Quota 'CPUS' exceeded/,
      options: ["--create-machine"],
      inject: () => (lab.compute.quotaExceeded = "Quota 'CPUS' exceeded. Limit: 24.0 in region us-central1."),
      mend: () => (lab.compute.quotaExceeded = undefined),
    },
    {
      host: RUNNER_HOST,
      check: "disk",
      sentence: /\/var\/lib\/docker-machine is 100% full/,
      inject: on(
        manager,
        "mount -t tmpfs -o size=1m tmpfs /var/lib/docker-machine && fallocate -l 1M /var/lib/docker-machine/ballast",
      ),
      mend: on(manager, "umount /var/lib/docker-machine"),
    },
    {
      host: CACHE_HOST,
      check: "bootstrap",
      sentence: /The set-up is not done/,
      inject: on(cache, "mv /var/lib/gitlab-runner-gce/bootstrapped{,.away}"),
      mend: on(cache, "mv /var/lib/gitlab-runner-gce/bootstrapped{.away,}"),
    },
    {
      host: CACHE_HOST,
      check: "containers",
      sentence: /registry-mirror/,
      inject: on(cache, "docker stop cache-registry-mirror-1"),
      mend: on(cache, "docker start cache-registry-mirror-1"),
    },
    {
      host: CACHE_HOST,
      check: "data-disk",
      sentence: /full/,
      inject: on(
        cache,
        "systemctl stop cache-host-prune.timer && fallocate -l $(($(df -B1M --output=avail /srv/cache | tail -n 1) - 100))M /srv/cache/ballast",
      ),
      mend: on(cache, "rm /srv/cache/ballast && systemctl start cache-host-prune.timer"),
    },
    {
      host: CACHE_HOST,
      check: "keys",
      sentence: /may not read the secret/,
      inject: () => (lab.secrets.refused = BUILD_CACHE_KEYS_SECRET),
      mend: () => (lab.secrets.refused = undefined),
    },
    {
      host: CACHE_HOST,
      check: "upstream",
      sentence: /does not answer/,
      inject: reject(cache, "-I", ADDRESSES.dockerHub),
      mend: reject(cache, "-D", ADDRESSES.dockerHub),
    },
  ];
}

async function examine({ name, vm }: Instance, options: readonly string[] = []): Promise<Diagnosis> {
  const program = name === CACHE_HOST ? "cache-host" : "runner-host";
  const command = `${program} doctor --json ${options.join(" ")} && echo 0 || echo $?`;
  const lines = (await vm.shell(command, { timeoutSeconds: 300 })).trim().split("\n");
  const diagnosis = JSON.parse(lines[0]) as Diagnosis;
  assert.equal(lines[1], diagnosis.ok ? "0" : "1");
  return diagnosis;
}
