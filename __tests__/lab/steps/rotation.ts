import assert from "node:assert/strict";
import { until } from "../commands";
import { BUILD_CACHE_KEYS_SECRET, CACHE_HOST, Lab, RUNNER_HOST, TOKEN_SECRET } from "../lab";
import type { Report } from "../report";
import type { Deployment } from "../terraform";
import { runnerConfig } from "./hosts";
import { reapSoon } from "./leftovers";

interface Keys {
  readonly access_key: string;
  readonly secret_key: string;
}

/** Secrets are renewed below running hosts. */
export async function rotation(lab: Lab, report: Report, deployment: Deployment): Promise<void> {
  const cache = lab.compute.find(CACHE_HOST);
  const work = (seconds: number) => lab.gitlab.queue("work", { SECONDS_OF_WORK: `${seconds}` });
  deployment.set({ max_builds: 10, idle_time: 300, privileged: false });
  await deployment.apply();
  await reapSoon(lab);

  const busy = await work(60).running();
  await report.check("A new token is live within a minute; the job of the old one ends well", async () => {
    const token = "glrt-A-New-0ne.With_more";
    lab.gitlab.token = token;
    lab.secrets.addVersion(TOKEN_SECRET, token);
    lab.runnerToken = token;
    const start = Date.now();
    await until("the runner asks with it", 60, () => lab.gitlab.asked.has(token));
    const seconds = (Date.now() - start) / 1000;
    await busy.success();
    return `${seconds.toFixed(0)} s after the new version`;
  });
  await report.check("Then the VM of the old token goes, which no runner looks at any more", async () => {
    const { worker } = await work(1).success();
    assert.notEqual(worker, busy.worker);
    await until("its end", 90, () => lab.compute.workers.every(({ name }) => name !== busy.worker));
    assert.deepEqual(
      lab.compute.workers.map(({ name }) => name),
      [worker],
    );
    return `${((Date.now() - busy.ended!) / 1000).toFixed(0)} s after its last job, with a grace of 20 s`;
  });

  const newest = () => JSON.parse(lab.secrets.payloads(BUILD_CACHE_KEYS_SECRET).at(-1)!) as Keys;
  // As a job does it: by pre-signed URLs. 4 is the exit status of keys that are refused.
  const accepted = async ({ access_key, secret_key }: Keys) => {
    const s3 = {
      ServerAddress: `${cache.address}:9005`,
      Insecure: true,
      BucketName: "runner",
      AccessKey: access_key,
      SecretKey: secret_key,
    };
    const status = await cache.vm.shell(
      "/usr/local/lib/gitlab-runner-gce/build-cache-check lab/keys >/dev/null || echo $?",
      {
        input: JSON.stringify(s3),
      },
    );
    assert.ok(["", "4\n"].includes(status), status);
    return status === "";
  };
  const runnerHas = async ({ access_key }: Keys) => (await runnerConfig(lab)).cache.s3.AccessKey === access_key;
  const first = newest();
  await report.check(
    "cache-host rotate-keys: new keys are live on the runner host within a minute, the old ones stay valid",
    async () => {
      assert.ok(await accepted(first));
      const start = Date.now();
      const said = await cache.vm.execute(["cache-host", "rotate-keys"]);
      assert.match(said, /has a new key pair/);
      const second = newest();
      assert.notEqual(second.access_key, first.access_key);
      assert.ok(await accepted(second), "the new keys are not accepted at once");
      await until("the runner has them", 60, () => runnerHas(second));
      const seconds = (Date.now() - start) / 1000;
      assert.ok(await accepted(first), "the old keys are not accepted any more");
      const build = await lab.gitlab.queue("build").success();
      assert.match(build.trace, /Created cache|Archive is up to date/);
      return `${seconds.toFixed(0)} s`;
    },
  );
  await report.check("cache-host revoke-old-keys: the old ones end, the new ones do not", async () => {
    const start = Date.now();
    await cache.vm.execute(["cache-host", "revoke-old-keys"]);
    await until("refused", 130, async () => !(await accepted(first)));
    assert.ok(await accepted(newest()));
    return `refused after ${((Date.now() - start) / 1000).toFixed(0)} s`;
  });
  await report.check("Keys that somebody added by hand are live within a minute, on both hosts", async () => {
    const before = newest();
    const keys: Keys = { access_key: "CBYHAND0000000000000", secret_key: "0123456789abcdefghijABCDEFGHIJ0123456789" };
    const start = Date.now();
    lab.secrets.addVersion(BUILD_CACHE_KEYS_SECRET, JSON.stringify(keys));
    await until("both have them", 60, async () => (await runnerHas(keys)) && (await accepted(keys)));
    const seconds = (Date.now() - start) / 1000;
    assert.ok(await accepted(before), "the keys before are not accepted any more");
    return `${seconds.toFixed(0)} s`;
  });
  await report.check("The containers were not started again for it", async () => {
    const { vm } = lab.compute.find(RUNNER_HOST);
    assert.equal(await vm.shell("systemctl show -p NRestarts --value gitlab-runner"), "0\n");
    const restarts = await cache.vm.shell("docker inspect -f '{{.RestartCount}}' cache-build-cache-1");
    assert.equal(restarts, "0\n");
  });
}
