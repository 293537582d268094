import { existsSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse as parseToml } from "smol-toml";
import { parse as parseYaml } from "yaml";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, eventually, recorder, run, start, temporaryFolder, type Running } from "./fakes/host";

const followConfig = join(cloudInit, "host/follow-config");
const secret = "projects/my-project/secrets/token";
const reference = `"secret://${secret}/versions/latest"`;

let google: FakeGoogle;
let folder: string;
let file: string;
const started: Running[] = [];

beforeEach(async () => {
  google = await new FakeGoogle().listen();
  folder = temporaryFolder();
  file = join(folder, "config");
});
afterEach(async () => {
  for (const running of started.splice(0)) {
    running.process.kill("SIGKILL");
    await running.ended;
  }
  google.close();
  rmSync(folder, { recursive: true });
});

const once = (seconds: number, ...more: string[]) =>
  run(followConfig, ["--once", String(seconds), "--attribute", "config", "--file", file, ...more], google.environment);

function follow(...more: string[]): Running {
  const running = start(followConfig, ["--attribute", "config", "--file", file, ...more], google.environment);
  started.push(running);
  return running;
}

const hostile: Record<string, string> = {
  quotes: `a"b'c"""d'''e`,
  backslashes: String.raw`\ \\ \n \" \u0041 C:\dir`,
  newlines: "one\ntwo\r\n\n\tthree",
  "shell and compose": "$HOME ${HOME} $$ $$$ `id` $(id) ${a:-b}",
  terraform: "%{ if true }b%{ endif } ${b} %%{ $${",
  handlebars: "{{x}} {{{y}}} {{!-- z --}}",
  yaml: "# : - a: b #c & *d !e | > ? [f] {g} , % @ ~ null true 0x10",
  spaces: "  leading and trailing  ",
  unicode: "äöü ß 漢字 😀 e\u0301 \u00a0 \ud83d\udc69\u200d\ud83d\udcbb",
  controls:
    Array.from({ length: 32 }, (_, code) => String.fromCharCode(code)).join("") +
    "\x7f\x80\x85\x9f\u2028\u2029\ufeff\ufffe\uffff",
  "10 kB": 'x"\\$\n'.repeat(2048) + "end",
  "a reference": `"secret://${secret}/versions/1"`,
};

describe("secrets in the file", () => {
  test.each(Object.entries(hostile))("TOML: %s", async (_, value) => {
    google.secrets.set(secret, [value]);
    google.setAttribute("config", `first = 1\ntoken = ${reference} # comment\nlast = "x"\n`);
    expect(await once(0)).toMatchObject({ status: 0, stderr: "" });
    expect(parseToml(readFileSync(file, "utf8"))).toEqual({ first: 1, token: value, last: "x" });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(google.published).toEqual(["config=ok"]);
  });

  test.each(Object.entries(hostile))("YAML for Docker Compose: %s", async (_, value) => {
    google.secrets.set(secret, [value]);
    google.setAttribute("config", `services:\n  a:\n    environment:\n      B: ${reference}\n      C: $$x\n`);
    expect(await once(0, "--escape-dollar")).toMatchObject({ status: 0, stderr: "" });
    const text = readFileSync(file, "utf8");
    const { B, C } = (parseYaml(text) as { services: { a: { environment: Record<string, string> } } }).services.a
      .environment;
    expect(B?.replaceAll("$$", "$")).toBe(value);
    expect(C).toBe("$$x");
  });

  test("one trailing newline of a payload is dropped, not more", async () => {
    google.secrets.set(secret, ["glrt-1\n\n"]);
    google.setAttribute("config", `a = ${reference}`);
    await once(0);
    expect(parseToml(readFileSync(file, "utf8"))).toEqual({ a: "glrt-1\n" });
  });

  test("two that write the same file do not get in each other's way: a set-up is repeated while its follower runs", async () => {
    google.setAttribute("config", "a = 1");
    const check = ["--check", "sh -c 'sleep 0.5; test -e {}'"];
    const both = await Promise.all([once(0, ...check), once(0, ...check)]);
    expect(both.map(({ status, stderr }) => ({ status, stderr }))).toEqual(Array(2).fill({ status: 0, stderr: "" }));
    expect(readFileSync(file, "utf8")).toBe("a = 1");
  });

  test("two fields come from one fetch of one version", async () => {
    google.secrets.set(secret, [JSON.stringify({ access_key: 'A"1', secret_key: "S$2\n" })]);
    google.setAttribute(
      "config",
      `a = ${reference.slice(0, -1)}#access_key"\nb = ${reference.slice(0, -1)}#secret_key"\n`,
    );
    expect(await once(0)).toMatchObject({ status: 0 });
    expect(parseToml(readFileSync(file, "utf8"))).toEqual({ a: 'A"1', b: "S$2\n" });
    expect(google.accessed).toEqual([`${secret}/versions/latest`]);
  });

  test("text inside somebody's string is not a reference", async () => {
    const text = String.raw`a = "say \"secret://projects/p/secrets/s/versions/1\" aloud"`;
    google.setAttribute("config", text);
    expect(await once(0)).toMatchObject({ status: 0 });
    expect(readFileSync(file, "utf8")).toBe(text);
  });

  test.each([
    ['"secret://projects/p/secrets/s"', "secret://projects/p/secrets/s is not of the form"],
    [`${reference.slice(0, -1)}#nope"`, "not a JSON object with a string in the field nope"],
  ])("a wrong reference is a sentence: %s", async (text, sentence) => {
    google.secrets.set(secret, ['{"number": 1}']);
    google.setAttribute("config", `a = ${text}`);
    const { status, stderr } = await once(60);
    expect(status).toBe(1);
    expect(stderr).toContain(sentence);
    expect(existsSync(file)).toBe(false);
  });
});

describe("--once", () => {
  test("waits for a missing secret and says which", async () => {
    google.secrets.set(secret, []);
    google.setAttribute("config", `a = ${reference}`);
    const { status, stderr } = await once(1);
    expect(status).toBe(1);
    const sentence = `secret ${secret}/versions/latest: not found; add a version with: gcloud secrets versions add token --project=my-project --data-file=-`;
    expect(stderr).toBe(`${sentence}\n`);
    expect(google.published).toEqual([`status=waiting: ${sentence}`, `config=failed: ${sentence}`]);
  });

  test("goes on when the role has arrived, and names account and role before", async () => {
    google.denials = 1;
    google.secrets.set(secret, ["x"]);
    google.setAttribute("config", `a = ${reference}`);
    expect(await once(30)).toMatchObject({ status: 0 });
    expect(google.published[0]).toContain(
      `status=waiting: secret ${secret}/versions/latest: the service account ${google.email} may not read it`,
    );
    expect(google.published[0]).toContain("roles/secretmanager.secretAccessor");
    expect(google.published.at(-1)).toBe("config=ok");
  });

  test("fails with a sentence without a metadata server", async () => {
    const { status, stderr } = await run(followConfig, ["--once", "0", "--attribute", "config", "--file", file], {
      GCE_METADATA_HOST: "127.0.0.1:1",
    });
    expect(status).toBe(1);
    expect(stderr).toContain("the metadata server does not answer");
  });

  test("a file that does not pass the check is never used, and the message shows no secret", async () => {
    writeFileSync(file, "old");
    google.secrets.set(secret, ['pass"word-1']);
    google.setAttribute("config", `a = ${reference}`);
    recorder(folder, "check", 'printf "\\e[31mFATAL: bad line:\\n\\n  %s\\e[0m\\n" "$(cat "$2")" >&2; exit 3');
    const { status, stdout, stderr } = await once(60, "--check", `${join(folder, "check")} --config {}`);
    expect(status).toBe(1);
    expect(stderr).toContain('ended with status 3: FATAL: bad line: a = "[secret]"');
    expect(readFileSync(file, "utf8")).toBe("old");
    expect(google.published.at(-1)).toMatch(
      /^config=failed: the new config is not used: [ -~]*FATAL: bad line: a = '\[secret\]'$/,
    );
    const calls = readFileSync(join(folder, "check.calls"), "utf8");
    for (const seen of [stdout, stderr, calls, ...google.published]) expect(seen).not.toContain("word-1");
    expect(readdirSync(folder).sort()).toEqual(["check", "check.calls", "config"]);
  });

  test("a file that cannot be written is a sentence, and nothing is left of it", async () => {
    writeFileSync(file, "old");
    google.setAttribute("config", "#".repeat(4096));
    const limited = await run(
      "bash",
      ["-c", 'ulimit -f 1; exec "$@"', "bash", followConfig, "--once", "60", "--attribute", "config", "--file", file],
      google.environment,
    );
    const sentence = `the new config is not used: ${file} cannot be written: File too large; is its disk full or read-only? Look at: df -h ${folder}; dmesg | tail`;
    expect(limited).toMatchObject({ status: 1, stderr: `${sentence}\n` });
    expect(google.published).toEqual([`config=failed: ${sentence}`]);
    expect(readFileSync(file, "utf8")).toBe("old");
    expect(readdirSync(folder)).toEqual(["config"]);
  });

  // What answers at the other address is a file for each path there.
  const other = "/other/v1/" + `${secret}/versions/latest:access`;
  const elsewhere = () => ({
    ...google.environment,
    CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER: `http://${google.address}/other/`,
  });
  const otherMetadata = "/other/computeMetadata/v1/instance/";
  const metadataElsewhere = () => ({ ...google.environment, GCE_METADATA_HOST: `${google.address}/other` });
  const onceWith = (environment: Record<string, string>, seconds: number) =>
    run(followConfig, ["--once", `${seconds}`, "--attribute", "config", "--file", file], environment);
  const good = JSON.stringify({ payload: { data: Buffer.from("x").toString("base64") } });

  test.each(["<html>", "[]", "{}", '{"payload": null}', '{"payload": {"data": "x"}}', Buffer.from([0x22, 0xff, 0x22])])(
    "an answer that is not Secret Manager's is a sentence: %s",
    async (answer) => {
      google.setAttribute("config", `a = ${reference}`);
      google.files.set(other, answer);
      expect(await onceWith(elsewhere(), 0)).toMatchObject({
        status: 1,
        stderr: `secret ${secret}/versions/latest: what answers at http://${google.address}/other/ is not Secret Manager; does a proxy of this host, or its DNS, lead elsewhere?\n`,
      });
    },
  );

  test("and is waited out", async () => {
    google.setAttribute("config", `a = ${reference}`);
    google.files.set(other, "<html>");
    setTimeout(() => google.files.set(other, good), 1000);
    expect(await onceWith(elsewhere(), 30)).toMatchObject({ status: 0, stderr: "" });
    expect(readFileSync(file, "utf8")).toBe('a = "x"');
  });

  test.each(["<html>", "[]", "{}", "null", Buffer.from([0xff])])(
    "a token that is none is a sentence: %s",
    async (answer) => {
      google.files.set(`${otherMetadata}attributes/config`, `a = ${reference}`);
      google.files.set(`${otherMetadata}service-accounts/default/token`, answer);
      expect(await onceWith(metadataElsewhere(), 0)).toMatchObject({
        status: 1,
        stderr: `the metadata server at http://${google.address}${otherMetadata} answers the question for a token with something else; does this instance have a service account?\n`,
      });
    },
  );

  test("and is waited out too", async () => {
    google.secrets.set(secret, ["x"]);
    google.files.set(`${otherMetadata}attributes/config`, `a = ${reference}`);
    google.files.set(`${otherMetadata}service-accounts/default/token`, "<html>");
    const token = JSON.stringify({ access_token: google.token });
    setTimeout(() => google.files.set(`${otherMetadata}service-accounts/default/token`, token), 1000);
    expect(await onceWith(metadataElsewhere(), 30)).toMatchObject({ status: 0, stderr: "" });
  });

  test("says how it went in a guest attribute of its own, if it is told to", async () => {
    google.setAttribute("config", "a = 1");
    await once(0, "--status", "keys");
    google.setAttribute("config", 'a = "secret://x"');
    await once(0, "--status", "keys");
    expect(google.published).toEqual(["keys=ok", expect.stringMatching(/^keys=failed: /)]);
  });

  test("applies a new file, and only a new one", async () => {
    google.setAttribute("config", "a = 1");
    recorder(folder, "apply");
    for (let i = 0; i < 2; i++)
      expect(await once(0, "--apply", `${join(folder, "apply")} 'now then'`)).toMatchObject({ status: 0 });
    expect(readFileSync(join(folder, "apply.calls"), "utf8")).toBe("now then\n");
  });
});

describe("follow", () => {
  const content = () => (existsSync(file) ? readFileSync(file, "utf8") : "");
  const calls = () =>
    existsSync(join(folder, "apply.calls"))
      ? readFileSync(join(folder, "apply.calls"), "utf8").split("\n").length - 1
      : 0;

  test("a change is live at once, a broken one never, a new secret version at the next tick", async () => {
    google.secrets.set(secret, ["one"]);
    google.setAttribute("config", `a = ${reference}`);
    recorder(folder, "apply");
    recorder(folder, "check", '! grep -q broken "$1"');
    follow("--interval", "3", "--check", `${join(folder, "check")} {}`, "--apply", join(folder, "apply"));
    await eventually(
      "first",
      () => content() === 'a = "one"' && calls() === 1 && google.guestAttributes.get("config") === "ok",
    );

    google.setAttribute("config", `broken = ${reference}`);
    await eventually(
      "refused",
      () => google.guestAttributes.get("config")?.startsWith("failed: the new config is not used") === true,
    );
    expect(content()).toBe('a = "one"');
    expect(calls()).toBe(1);

    const before = Date.now();
    google.setAttribute("config", `b = ${reference}`);
    await eventually(
      "second",
      () => content() === 'b = "one"' && calls() === 2 && google.guestAttributes.get("config") === "ok",
    );
    expect(Date.now() - before).toBeLessThan(2500);

    google.secrets.set(secret, ["one", "two"]);
    await eventually("new version", () => content() === 'b = "two"' && calls() === 3);
  });

  test("applies at start what may have been left over, and again after a failure", async () => {
    writeFileSync(file, "a = 1");
    google.setAttribute("config", "a = 1");
    recorder(folder, "apply", `[ "$(wc -l <"$0.calls")" -gt 1 ] || { echo no >&2; exit 1; }`);
    follow("--interval", "1", "--apply", join(folder, "apply"));
    await eventually("failed", () =>
      google.published.some((line) => line.startsWith("config=failed: ") && line.endsWith("ended with status 1: no")),
    );
    await eventually("healed", () => google.guestAttributes.get("config") === "ok");
    await new Promise((resolve) => setTimeout(resolve, 2500));
    expect(calls()).toBe(2);
  });

  test("says so when the disk is full, and uses the newest as soon as there is room", async () => {
    google.setAttribute("config", "a = 1");
    recorder(folder, "apply");
    const running = start(
      "bash",
      ["-c", 'ulimit -S -f 1; exec "$@"', "bash", followConfig, "--attribute", "config", "--file", file].concat([
        "--interval",
        "1",
        "--apply",
        join(folder, "apply"),
      ]),
      google.environment,
    );
    started.push(running);
    await eventually("first", () => google.guestAttributes.get("config") === "ok");
    const long = "#".repeat(4096);
    google.setAttribute("config", long);
    await eventually(
      "failed",
      () =>
        google.guestAttributes.get("config")?.startsWith(`failed: the new config is not used: ${file} cannot`) === true,
    );
    expect(content()).toBe("a = 1");
    expect(readdirSync(folder).sort()).toEqual(["apply", "apply.calls", "config"]);
    await run("prlimit", ["--pid", `${running.process.pid}`, "--fsize=unlimited:"]);
    await eventually("healed", () => google.guestAttributes.get("config") === "ok");
    expect(content()).toBe(long);
    expect(calls()).toBe(2);
    expect(running.stderr).toBe("");
  });

  test("survives a missing attribute without a busy loop", async () => {
    const running = follow("--interval", "1");
    await eventually(
      "says so",
      () => google.guestAttributes.get("config")?.includes("no metadata attribute config") === true,
    );
    google.setAttribute("config", "a = 1");
    await eventually("healed", () => content() === "a = 1" && google.guestAttributes.get("config") === "ok");
    expect(running.stdout.split("\n").length).toBeLessThan(6);
  });
});
