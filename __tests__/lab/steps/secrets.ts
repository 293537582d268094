import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ApiError } from "../google/api";
import { BUILD_CACHE_KEYS_SECRET, CACHE_HOST, Lab, RUNNER_HOST, TOKEN_SECRET } from "../lab";
import type { Report } from "../report";
import { LOGS, PROJECT } from "../settings";
import type { Deployment } from "../terraform";

/** Looks at the command lines of all processes, those of the VMs among them, as often as it can without being in the way. */
export class ProcessListWatch {
  private readonly seen = new Set<string>();
  private readonly timer = setInterval(() => this.look(), 200);

  stop(): ReadonlySet<string> {
    clearInterval(this.timer);
    return this.seen;
  }

  private look(): void {
    for (const id of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
      try {
        this.seen.add(readFileSync(`/proc/${id}/cmdline`, "utf8"));
      } catch {
        // It ended just now.
      }
    }
  }
}

/** No secret is where it should not be. */
export async function secrets(
  lab: Lab,
  report: Report,
  deployment: Deployment,
  watch: ProcessListWatch,
): Promise<void> {
  // The access key beside it is no secret: it is in each pre-signed URL.
  const keys = JSON.parse(lab.secrets.payloads(BUILD_CACHE_KEYS_SECRET)[0]) as { secret_key: string };
  const known = { "the runner token": lab.runnerToken, "the S3 secret key": keys.secret_key };
  const clean = (what: string, text: string) => {
    for (const [name, secret] of Object.entries(known)) {
      assert.ok(
        !text.includes(secret) && !text.includes(Buffer.from(secret).toString("base64")),
        `${name} is in ${what}`,
      );
    }
    assert.ok(!lab.iam.issuedTokens.some((token) => text.includes(token)), `an access token is in ${what}`);
  };
  await report.check("No secret in any answer of the metadata server", () => {
    clean("an answer", [...lab.metadataServer.answers].join("\n"));
    return `${lab.metadataServer.answers.size} answers`;
  });
  await report.check("No secret in Terraform's state, plan or JSON", async () => {
    clean("the state", deployment.state);
    clean("the JSON", deployment.synthesized);
    await deployment.plan();
    clean("the plan", await deployment.showPlan());
  });
  await report.check("No secret in any log", async () => {
    const files = readdirSync(LOGS);
    files.forEach((file) => clean(file, readFileSync(join(LOGS, file), "utf8")));
    for (const name of [CACHE_HOST, RUNNER_HOST]) {
      const { vm } = lab.compute.find(name);
      clean(`the journal of ${name}`, await vm.execute(["journalctl", "--no-pager"]));
      clean(`/var/log of ${name}`, await vm.shell("find /var/log -type f -not -path '*/journal/*' -exec cat {} +"));
    }
    const { vm } = lab.compute.find(CACHE_HOST);
    clean("the containers' logs", await vm.shell("docker ps -q | xargs -n 1 docker logs 2>&1"));
    return `${files.length} files, 2 journals`;
  });
  await report.check("No secret in any command line", () => {
    const seen = watch.stop();
    seen.forEach((line) => clean(`a command line: ${line.split("\0")[0]}`, line));
    return `${seen.size} different ones`;
  });
  await report.check("The workers' service account can read no secret, and each host only its own", () => {
    const mayRead = (account: string) =>
      lab.secrets.ids.filter((id) => {
        const path = `v1/projects/${PROJECT}/secrets/${id}/versions/latest:access`;
        const caller = `serviceAccount:${account}@${PROJECT}.iam.gserviceaccount.com`;
        try {
          return lab.secrets.answer({ method: "GET", path, caller, query: new URLSearchParams(), body: undefined });
        } catch (error) {
          assert.ok(error instanceof ApiError && error.code === 403, String(error));
          return false;
        }
      });
    assert.deepEqual(mayRead("gitlab-runner-worker"), []);
    assert.deepEqual(mayRead(CACHE_HOST), [BUILD_CACHE_KEYS_SECRET]);
    assert.deepEqual(mayRead(RUNNER_HOST).sort(), [BUILD_CACHE_KEYS_SECRET, TOKEN_SECRET].sort());
  });
}
