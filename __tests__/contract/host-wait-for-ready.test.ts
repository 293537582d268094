import { existsSync, readFileSync, writeFileSync } from "node:fs";
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
const calls = (name: string) => readFileSync(join(folder, `${name}.calls`), "utf8").split("\n").length - 1;
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

test("a token that ends meanwhile is made anew, as often as it ends", async () => {
  const token = join(folder, "token");
  const now = (value: string) => {
    writeFileSync(token, value);
    Object.assign(google, { token: value });
  };
  recorder(folder, "gcloud", `cat ${token}`);
  google.guestAttributes.set("status", "starting");
  now("ya29.first");
  after(1, () => now("ya29.second"));
  after(2, () => now("ya29.third"));
  after(3, () => google.guestAttributes.set("status", "ready"));
  expect(await wait({ GOOGLE_OAUTH_ACCESS_TOKEN: "" }).ended).toMatchObject({ status: 0, stderr: "" });
  expect(calls("gcloud")).toBe(3);
});

test("a token of the environment that has ended is followed by gcloud's", async () => {
  recorder(folder, "gcloud", `echo ${google.token}`);
  google.guestAttributes.set("status", "ready");
  expect(await wait({ GOOGLE_OAUTH_ACCESS_TOKEN: "ya29.ended" }).ended).toMatchObject({ status: 0, stderr: "" });
});

test.each([
  ["there is no other", "exit 1", 1],
  ["there is an empty one", "echo", 1],
  ["the next is refused too", "echo ya29.ended-too", 2],
])("a token that is refused ends it with a sentence: %s", async (_, gcloud, polls) => {
  recorder(folder, "gcloud", gcloud);
  const { status, stderr } = await wait({ GOOGLE_OAUTH_ACCESS_TOKEN: "ya29.ended" }).ended;
  expect(status).toBe(1);
  expect(stderr.split("\n")[0]).toBe(
    "The Compute Engine API answers 401: the token is refused or has ended. Log in again with: gcloud auth login; or set GOOGLE_OAUTH_ACCESS_TOKEN to a new one; then apply again.",
  );
  expect({ gcloud: calls("gcloud"), polls: calls("curl") }).toEqual({ gcloud: 1, polls });
});

// In the forms of Google: a body over several lines.
const denial = (message: string) =>
  `printf '%s\n' '{' '  "error": {' '    "code": 403,' '    "message": "${message}",' '    "errors": [ { "message": "again" } ] } }' 403`;

test("a refusal may be one of the moment, such as of too many questions", async () => {
  recorder(
    folder,
    "curl",
    `n=$(wc -l <"$0.calls"); if ((n % 3)); then ${denial("Rate Limit Exceeded")}; else exec ${program("curl")} "$@"; fi`,
  );
  google.guestAttributes.set("status", "starting");
  after(3, () => google.guestAttributes.set("status", "ready"));
  expect(await wait().ended).toMatchObject({ status: 0, stderr: "" });
  expect(calls("curl")).toBeGreaterThan(6);
});

test("a missing permission is named after three refusals in a row, with what Google says", async () => {
  recorder(folder, "curl", denial("Required permission"));
  const { status, stderr } = await wait().ended;
  expect(status).toBe(1);
  expect(stderr.split("\n")[0]).toBe(
    "The Compute Engine API answers 403 (Required permission): who runs Terraform needs the permission compute.instances.getGuestAttributes in the project my-project (it is in roles/compute.instanceAdmin.v1).",
  );
  expect(calls("curl")).toBe(3);
});

test("and without it, if Google says nothing", async () => {
  google.computeStatus = 403;
  const { status, stderr } = await wait().ended;
  expect(status).toBe(1);
  expect(stderr).toContain("The Compute Engine API answers 403: who runs Terraform needs the permission");
});

test("a timeout of 0 does not wait", async () => {
  google.guestAttributes.set("status", "failed: config: no secret");
  const { status, stdout, stderr } = await wait({ TIMEOUT_SECONDS: "0", STALE_SECONDS: "0" }).ended;
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout.split("\n")[0]).toBe("Did not wait for gitlab-runner to set itself up: readyTimeout is 0.");
  expect(existsSync(join(folder, "curl.calls"))).toBe(false);
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
