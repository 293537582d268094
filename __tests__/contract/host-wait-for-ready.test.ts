import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, pathWith, program, recorder, start, onGoogle } from "./fakes/host";

let google: FakeGoogle;
let folder: string;

onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
  recorder(folder, "curl", `exec ${program("curl")} "$@"`);
  recorder(folder, "gcloud", "exit 1");
});

const wait = (environment: Record<string, string> = {}) =>
  start("sh", [join(cloudInit, "wait-for-ready.sh")], {
    ...google.environment,
    PROJECT: "my-project",
    ZONE: "us-central1-a",
    INSTANCE: "gitlab-runner",
    TIMEOUT_SECONDS: "20",
    POLL_SECONDS: "0.2",
    GOOGLE_OAUTH_ACCESS_TOKEN: google.token,
    PATH: pathWith(folder),
    ...environment,
  });
const after = (seconds: number, action: () => void) => setTimeout(action, seconds * 1000);

test("prints each status once, until ready; the token is in no command line", async () => {
  const steps = ["starting", "step: packages", "waiting: secret x: use 'gcloud' <a@b> & c=d", "ready"];
  steps.forEach((step, index) => after(index + 0.5, () => google.guestAttributes.set("status", step)));
  after(0.7, () => google.guestAttributes.set("config", "ok"));
  const { status, stdout, stderr } = await wait().ended;
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout.trim().split("\n").slice(1)).toEqual(steps.map((step) => `gitlab-runner: ${step}`));
  const calls = readFileSync(join(folder, "curl.calls"), "utf8");
  expect(calls).toContain("getGuestAttributes?queryPath=gitlab-runner/");
  expect(calls).not.toContain(google.token);
});

test("the token may come from gcloud", async () => {
  recorder(folder, "gcloud", `[ "$*" = "auth print-access-token" ] && echo ${google.token}`);
  google.guestAttributes.set("status", "ready");
  expect(await wait({ GOOGLE_OAUTH_ACCESS_TOKEN: "" }).ended).toMatchObject({ status: 0 });
});

test("a failure ends it with the reason and where to look", async () => {
  google.guestAttributes.set("status", "step: packages");
  after(1, () => google.guestAttributes.set("status", "failed: packages: E: no"));
  const { status, stderr } = await wait().ended;
  expect(status).toBe(1);
  expect(stderr).toContain("gitlab-runner could not set itself up: packages: E: no\n");
  expect(stderr).toContain(
    "gcloud compute instances get-serial-port-output gitlab-runner --project=my-project --zone=us-central1-a",
  );
  expect(stderr).toContain(
    "gcloud compute ssh gitlab-runner --project=my-project --zone=us-central1-a --tunnel-through-iap",
  );
});

test("a failure of an earlier apply may heal first", async () => {
  google.guestAttributes.set("status", "failed: config: no secret");
  after(1, () => google.guestAttributes.set("status", "ready"));
  expect(await wait().ended).toMatchObject({ status: 0 });
  google.guestAttributes.set("status", "failed: config: no secret");
  expect(await wait({ STALE_SECONDS: "1" }).ended).toMatchObject({ status: 1 });
});

test("gives up in the end and tells the last status", async () => {
  google.guestAttributes.set("status", "step: services");
  const { status, stderr } = await wait({ TIMEOUT_SECONDS: "1" }).ended;
  expect(status).toBe(1);
  expect(stderr).toContain('gitlab-runner is not ready after 1 s; its last status is "step: services"');
});

test("an API that fails for a while is asked again", async () => {
  google.computeStatus = 503;
  after(1, () => {
    google.computeStatus = 200;
    google.guestAttributes.set("status", "ready");
  });
  expect(await wait().ended).toMatchObject({ status: 0 });
});

test("a missing permission is named at once", async () => {
  google.computeStatus = 403;
  const { status, stderr } = await wait().ended;
  expect(status).toBe(1);
  expect(stderr).toContain("The Compute Engine API answers 403: ");
  expect(stderr).toContain("compute.instances.getGuestAttributes");
});

test("without a token it says that it did not wait, and is no failure", async () => {
  const { status, stdout } = await wait({ GOOGLE_OAUTH_ACCESS_TOKEN: "" }).ended;
  expect(status).toBe(0);
  expect(stdout).toContain("Did not wait for gitlab-runner to set itself up: ");
  expect(stdout).toContain(
    "gcloud compute instances get-guest-attributes gitlab-runner --project=my-project --zone=us-central1-a",
  );
  expect(existsSync(join(folder, "curl.calls"))).toBe(false);
});
