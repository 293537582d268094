import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { FakeGoogle } from "./fakes/google";
import {
  cacheHostLibrary,
  cloudInit,
  eventually,
  onGoogle,
  pathWith,
  program,
  recorder,
  run,
  start,
  testIf,
} from "./fakes/host";

let google: FakeGoogle;
let folder: string;
let library: string;

onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
  library = cacheHostLibrary(folder);
});

const environment = () => ({
  ...google.environment,
  HOST_ROOT: folder,
  HOST_LIB: library,
  PATH: pathWith(join(folder, "bin")),
});
const cacheHost = join(cloudInit, "cache-host/cache-host");
const call = (command: string) => run("bash", ["-c", `. ${cacheHost}; ${command}`], environment());

describe("keys", () => {
  const secret = "projects/my-project/secrets/gitlab-runner-cache-keys";
  const keys = () => call("keys");

  beforeEach(() => {
    mkdirSync(join(folder, "etc/gitlab-runner-gce"), { recursive: true });
    writeFileSync(
      join(folder, "etc/gitlab-runner-gce/settings.json"),
      JSON.stringify({ buildCacheKeysSecret: secret }),
    );
    for (const name of ["curl", "base64", "sed"]) recorder(join(folder, "bin"), name, `exec ${program(name)} "$@"`);
  });

  test("a pair is made once, and is in no output and no command line", async () => {
    google.secrets.set(secret, []);
    const first = await keys();
    expect(first).toMatchObject({ status: 0, stderr: "" });
    const [payload = ""] = google.secrets.get(secret) ?? [];
    const pair = JSON.parse(payload) as Record<string, string>;
    expect(pair).toEqual({
      access_key: expect.stringMatching(/^C[A-Z0-9]{19}$/) as string,
      secret_key: expect.stringMatching(/^[A-Za-z0-9]{40}$/) as string,
    });
    const calls = ["curl", "base64", "sed"]
      .map((name) => readFileSync(join(folder, `bin/${name}.calls`), "utf8"))
      .join("");
    for (const hidden of [pair.access_key, pair.secret_key, google.token, Buffer.from(payload).toString("base64")]) {
      for (const seen of [first.stdout, calls]) expect(seen).not.toContain(hidden);
    }
    expect(await keys()).toMatchObject({ status: 0, stdout: "" });
    expect(google.secrets.get(secret)).toEqual([payload]);
  });

  test("an existing pair is kept", async () => {
    google.secrets.set(secret, ['{"access_key": "a", "secret_key": "b"}']);
    expect(await keys()).toMatchObject({ status: 0, stdout: "", stderr: "" });
    expect(google.secrets.get(secret)).toHaveLength(1);
  });

  test("waits for the role, and names account and roles", async () => {
    google.denials = 1;
    google.secrets.set(secret, []);
    const { status, stdout } = await keys();
    expect(status).toBe(0);
    expect(stdout).toContain(`Waiting: Cannot read ${secret}: Secret Manager answers 403 (Permission denied`);
    expect(stdout).toContain(
      `grant ${google.email} the roles secretmanager.secretAccessor and secretmanager.secretVersionAdder`,
    );
    expect(google.secrets.get(secret)).toHaveLength(1);
  });
});

describe("the accepted keys", () => {
  interface Pair {
    readonly access_key: string;
    readonly secret_key: string;
  }
  const secret = "projects/my-project/secrets/gitlab-runner-cache-keys";
  const first: Pair = { access_key: "CFIRST", secret_key: "first-secret" };

  const etc = (name: string) => join(folder, "etc/gitlab-runner-gce", name);
  const users = () => join(folder, "srv/cache/iam/users.json");
  const accounts = () =>
    (
      JSON.parse(readFileSync(users(), "utf8")) as {
        accessAccounts: { [access: string]: { secret: string; role: string; replaced?: number } };
      }
    ).accessAccounts;
  /** Access key → for how many hours it has been an old one. */
  const ages = () =>
    Object.fromEntries(
      Object.entries(accounts()).map(([access, { replaced }]) => [
        access,
        replaced === undefined ? "current" : Math.round((Date.now() / 1000 - replaced) / 3600),
      ]),
    );
  const newest = () => JSON.parse(google.secrets.get(secret)!.at(-1)!) as Pair;
  const accept = (pair: Pair) => {
    writeFileSync(etc("build-cache-keys.json"), JSON.stringify(pair));
    return run(cacheHost, ["accept-keys"], environment());
  };
  function age(access: string, hours: number): void {
    const all = accounts();
    all[access].replaced = Date.now() / 1000 - hours * 3600;
    writeFileSync(users(), JSON.stringify({ accessAccounts: all }));
  }

  beforeEach(() => {
    mkdirSync(etc(""), { recursive: true });
    writeFileSync(etc("settings.json"), JSON.stringify({ buildCacheKeysSecret: secret }));
    google.setAttribute("cache-settings", JSON.stringify({ buildCacheServer: "versitygw" }));
    google.secrets.set(secret, [JSON.stringify(first)]);
    for (const name of ["curl", "base64", "sed", "python3"])
      recorder(join(folder, "bin"), name, `exec ${program(name)} "$@"`);
    rmSync(join(library, "build-cache-keys"));
    recorder(library, "build-cache-keys", `exec ${join(cloudInit, "cache-host/build-cache-keys")} "$@"`);
  });

  test("are those of the secret and, for a day, those before them", async () => {
    expect(await accept(first)).toMatchObject({ status: 0, stdout: "", stderr: "" });
    expect(accounts()).toEqual({
      CFIRST: { access: "CFIRST", secret: "first-secret", role: "admin", userID: 0, groupID: 0, projectID: 0 },
    });
    expect(statSync(users()).mode & 0o777).toBe(0o600);
    await accept({ access_key: "CSECOND", secret_key: "b" });
    age("CFIRST", 23);
    await accept({ access_key: "CTHIRD", secret_key: "c" });
    await accept({ access_key: "CTHIRD", secret_key: "c" });
    expect(ages()).toEqual({ CFIRST: 23, CSECOND: 0, CTHIRD: "current" });
    await accept(first);
    expect(ages()).toEqual({ CFIRST: "current", CSECOND: 0, CTHIRD: 0 });
  });

  test("follow the secret", async () => {
    const uri = `secret://${secret}/versions/latest`;
    google.setAttribute(
      "build-cache-keys",
      JSON.stringify({ access_key: `${uri}#access_key`, secret_key: `${uri}#secret_key` }),
    );
    const args = ["--attribute", "build-cache-keys", "--file", etc("build-cache-keys.json"), "--status", "keys"];
    const follower = start(
      join(cloudInit, "host/follow-config"),
      [...args, "--apply", `${cacheHost} accept-keys`, "--interval", "1"],
      environment(),
    );
    try {
      await eventually("the first", () => google.guestAttributes.get("keys") === "ok");
      expect(ages()).toEqual({ CFIRST: "current" });
      google.secrets.get(secret)!.push('{"access_key": "CSECOND", "secret_key": "b"}');
      await eventually("the second", () => ages()["CSECOND"] === "current");
      expect(ages()).toEqual({ CFIRST: 0, CSECOND: "current" });
      expect(google.published).toEqual(["keys=ok"]);
    } finally {
      follower.process.kill();
      await follower.ended;
    }
  });

  test("prune ends a pair that was replaced a day ago, and never the current one", async () => {
    mkdirSync(join(folder, "srv/cache/export/runner"), { recursive: true });
    google.setAttribute(
      "cache-settings",
      JSON.stringify({ bucket: "runner", maxAgeDays: 14, highWaterPercent: 100, buildCacheServer: "versitygw" }),
    );
    await accept(first);
    await accept({ access_key: "CSECOND", secret_key: "b" });
    await accept({ access_key: "CTHIRD", secret_key: "c" });
    age("CFIRST", 25);
    age("CSECOND", 23);
    const { status, stdout } = await run(cacheHost, ["prune"], environment());
    expect(status).toBe(0);
    expect(stdout).toContain("does not accept 1 key pairs any more that were replaced 24 hours ago.");
    expect(ages()).toEqual({ CSECOND: 23, CTHIRD: "current" });
  });

  test("rotate-keys: the new pair is accepted, current and in the secret, and in no output and no command line", async () => {
    await accept(first);
    const { status, stdout, stderr } = await run(cacheHost, ["rotate-keys"], environment());
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const { access_key, secret_key } = newest();
    expect(access_key).toMatch(/^C[A-Z0-9]{19}$/);
    expect(ages()).toEqual({ CFIRST: 0, [access_key]: "current" });
    expect(accounts()[access_key].secret).toBe(secret_key);
    expect(stdout).toContain(`${secret} has a new key pair. Runner hosts follow it: they use it within a minute`);
    expect(stdout).toContain("the old pair for 24 hours more");
    expect(stdout).toContain("sudo cache-host revoke-old-keys");
    const calls = [join(folder, "bin"), library].flatMap((place) =>
      readdirSync(place)
        .filter((name) => name.endsWith(".calls"))
        .map((name) => readFileSync(join(place, name), "utf8")),
    );
    expect(calls).toHaveLength(5);
    for (const hidden of [
      access_key,
      secret_key,
      google.token,
      Buffer.from(secret_key).toString("base64").slice(4, 20),
    ])
      for (const seen of [stdout, ...calls]) expect(seen).not.toContain(hidden);
  });

  test("rotate-keys: without the right to the secret nothing changes for anybody, and it says why", async () => {
    await accept(first);
    google.denials = 1;
    const { status, stdout, stderr } = await run(cacheHost, ["rotate-keys"], environment());
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toContain(`Cannot add a version to ${secret}: Secret Manager answers 403 (Permission denied`);
    expect(stderr).toContain(`grant ${google.email} the roles`);
    expect(stderr).toContain("Everybody goes on with the old keys; mend it and run this again.");
    expect(newest()).toEqual(first);
    expect(ages()["CFIRST"]).toBe("current");
    expect(await run(cacheHost, ["rotate-keys"], environment())).toMatchObject({ status: 0 });
    expect(ages()).toMatchObject({ CFIRST: 0, [newest().access_key]: "current" });
  });

  test("rotate-keys: stopped when the secret had the new pair, its follower does the rest", async () => {
    await accept(first);
    recorder(
      library,
      "build-cache-keys",
      `[[ $2 != use ]] && exec ${join(cloudInit, "cache-host/build-cache-keys")} "$@"`,
    );
    expect(await run(cacheHost, ["rotate-keys"], environment())).toMatchObject({ status: 1 });
    const second = newest();
    expect(ages()).toEqual({ CFIRST: "current", [second.access_key]: 0 });
    rmSync(join(library, "build-cache-keys"));
    symlinkSync(join(cloudInit, "cache-host/build-cache-keys"), join(library, "build-cache-keys"));
    await accept(second);
    expect(ages()).toEqual({ CFIRST: 0, [second.access_key]: "current" });
  });

  test("rotate-keys: with MinIO it says that the old pair ends", async () => {
    google.setAttribute("cache-settings", JSON.stringify({ buildCacheServer: "minio" }));
    const { status, stdout } = await run(cacheHost, ["rotate-keys"], environment());
    expect(status).toBe(0);
    expect(stdout).toContain("MinIO knows one pair only");
    expect(stdout).not.toContain("revoke-old-keys");
    expect(google.secrets.get(secret)).toHaveLength(2);
  });

  test("revoke-old-keys leaves the current pair", async () => {
    await accept(first);
    await accept({ access_key: "CSECOND", secret_key: "b" });
    for (const ended of [1, 0]) {
      expect(await run(cacheHost, ["revoke-old-keys"], environment())).toMatchObject({
        status: 0,
        stdout: `The build cache accepts the current key pair only; old pairs that ended now: ${ended}.\n`,
      });
      expect(ages()).toEqual({ CSECOND: "current" });
    }
  });

  test.each([
    ["no keys", '{"access_key": "a"}', "not a JSON object with the strings access_key and secret_key"],
    ["an empty key", '{"access_key": "", "secret_key": "x"}', "not a JSON object with the strings"],
  ])("a secret with %s changes nothing", async (_, text, sentence) => {
    await accept(first);
    writeFileSync(etc("build-cache-keys.json"), text);
    const { status, stderr } = await run(cacheHost, ["accept-keys"], environment());
    expect(status).toBe(1);
    expect(stderr).toContain(sentence);
    expect(ages()).toEqual({ CFIRST: "current" });
  });

  test("a broken file is a sentence", async () => {
    await accept(first);
    writeFileSync(users(), "{");
    const { status, stderr } = await accept(first);
    expect(status).toBe(1);
    expect(stderr).toBe(
      `${users()} is broken: delete it, and restart cache-host-keys.service, which makes it again with the current keys.\n`,
    );
  });

  test("the server's own account is made once, and is nobody's to read", async () => {
    const file = etc("build-cache-root.env");
    expect(await call("server_account")).toMatchObject({ status: 0, stdout: "", stderr: "" });
    const text = readFileSync(file, "utf8");
    expect(text).toMatch(/^ROOT_ACCESS_KEY=[A-Z0-9]{20}\nROOT_SECRET_KEY=[A-Za-z0-9]{40}\n$/);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    await call("server_account");
    expect(readFileSync(file, "utf8")).toBe(text);
  });
});

describe("prune", () => {
  const bucket = () => join(folder, "srv/cache/export/runner");
  const prune = (settings: Record<string, unknown>) => {
    google.setAttribute(
      "cache-settings",
      JSON.stringify({ bucket: "runner", maxAgeDays: 14, highWaterPercent: 100, ...settings }),
    );
    return run(cacheHost, ["prune"], environment());
  };
  function file(path: string, days: number, bytes = 1): void {
    const name = join(bucket(), path);
    mkdirSync(dirname(name), { recursive: true });
    writeFileSync(name, Buffer.alloc(bytes));
    const time = Date.now() / 1000 - days * 86400;
    utimesSync(name, time, time);
    utimesSync(dirname(name), time, time);
  }
  const files = () =>
    execFileSync("find", [".", "-mindepth", "1", "-printf", "%P\\n"], { cwd: bucket(), encoding: "utf8" })
      .trim()
      .split("\n")
      .sort();

  beforeEach(() => mkdirSync(bucket(), { recursive: true }));

  test("by age: files, with odd names too, and the directories that are empty then", async () => {
    file("ci/project/1/new/cache.zip", 13);
    file("ci/project/1/old/cache.zip", 15);
    file('ci/project/2/o l\nd*"$(id)/cache.zip', 15);
    file(".sgwtmp/multipart/upload", 30);
    mkdirSync(join(bucket(), ".sgwtmp/empty"));
    const { status, stdout, stderr } = await prune({});
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toMatch(
      /^Deleted 2 build caches \(0 MB\) older than 14 days, and 0 more \(0 MB\) and 0 layers and manifests of the registry mirror \(0 MB\) because the disk was over 100 % full; it is \d+ % full now, \d+ % before\.\n$/,
    );
    expect(files()).toEqual([
      ".sgwtmp",
      ".sgwtmp/empty",
      ".sgwtmp/multipart",
      ".sgwtmp/multipart/upload",
      "ci",
      "ci/project",
      "ci/project/1",
      "ci/project/1/new",
      "ci/project/1/new/cache.zip",
    ]);
  });

  test("MinIO: an object is a folder and goes as a whole", async () => {
    for (const [name, days] of [
      ["old", 15],
      ["new", 1],
    ] as const) {
      file(`ci/${name}/cache.zip/0e8a/part.1`, days);
      file(`ci/${name}/cache.zip/xl.meta`, days);
    }
    // Older than the object that it belongs to.
    file("ci/new/cache.zip/0e8a/part.2", 20);
    utimesSync(join(bucket(), "ci/new/cache.zip"), Date.now() / 1000, Date.now() / 1000);
    expect((await prune({})).stdout).toContain("Deleted 1 build caches");
    expect(files()).toEqual([
      "ci",
      "ci/new",
      "ci/new/cache.zip",
      "ci/new/cache.zip/0e8a",
      "ci/new/cache.zip/0e8a/part.1",
      "ci/new/cache.zip/0e8a/part.2",
      "ci/new/cache.zip/xl.meta",
    ]);
  });

  test("nothing to do, and the bucket stays", async () => {
    expect(await prune({})).toMatchObject({ status: 0 });
    expect(existsSync(bucket())).toBe(true);
  });

  test.each(["../..", "", "missing"])("a bucket that is none is left alone: %p", async (name) => {
    file("a", 30);
    const { status, stderr } = await prune({ bucket: name });
    expect(status).toBe(1);
    expect(stderr).toContain("There is no bucket ");
    expect(files()).toEqual(["a"]);
  });

  const marker = () => join(folder, "var/lib/gitlab-runner-gce/pruned");
  function pruned(minutesAgo: number): void {
    const time = Date.now() / 1000 - minutesAgo * 60;
    utimesSync(marker(), time, time);
  }

  test("looks for old ones once an hour", async () => {
    await prune({});
    file("old", 15);
    pruned(59);
    expect(await prune({})).toMatchObject({ status: 0, stdout: "", stderr: "" });
    expect(files()).toEqual(["old"]);
    pruned(61);
    expect((await prune({})).stdout).toContain("Deleted 1 build caches");
    expect(statSync(marker()).mtimeMs).toBeGreaterThan(Date.now() - 60_000);
  });

  describe("a full disk", () => {
    const disk = () => join(folder, "srv/cache");
    let mounted = false;
    try {
      execFileSync("sh", ["-c", "d=$(mktemp -d) && mount -t tmpfs tmpfs $d && umount $d && rmdir $d"], {
        stdio: "ignore",
      });
      mounted = true;
    } catch {
      if (process.env.CI) throw new Error("the tests of a full disk need root, for a tmpfs");
      console.warn("Skipped the tests of a full disk: they need root, for a tmpfs.");
    }
    beforeEach(() => {
      if (mounted) execFileSync("mount", ["-t", "tmpfs", "-o", "size=10m", "tmpfs", disk()]);
      mkdirSync(bucket(), { recursive: true });
    });
    afterEach(() => {
      if (mounted) execFileSync("umount", [disk()]);
    });

    const blobs = () => join(disk(), "registry/docker/registry/v2/blobs/sha256");
    function blob(digest: string, days: number): void {
      const folder = join(blobs(), digest.slice(0, 2), digest);
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, "data"), Buffer.alloc(2 ** 20));
      const time = Date.now() / 1000 - days * 86400;
      utimesSync(join(folder, "data"), time, time);
    }
    const left = () =>
      execFileSync("find", [".", "-type", "f", "-printf", "%P\\n"], { cwd: disk(), encoding: "utf8" })
        .trim()
        .split("\n")
        .sort();

    testIf(mounted)(
      "the oldest go first, of caches and mirrored layers alike, until it is below the mark",
      async () => {
        for (const days of [1, 3, 5, 7, 9]) file(`ci/${days}/cache.zip`, days, 2 ** 20);
        for (const days of [2, 4, 6, 8]) blob(`ab${days}`, days);
        await prune({ highWaterPercent: 95 });
        expect(left()).toHaveLength(9);
        // Not only once an hour.
        const { status, stdout, stderr } = await prune({ highWaterPercent: 65 });
        expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
        expect(stdout).toMatch(
          /^Deleted 0 build caches \(0 MB\) .* and 2 more \(2 MB\) and 1 layers and manifests of the registry mirror \(1 MB\) because the disk was over 65 % full; it is 60 % full now, 90 % before\.\n$/,
        );
        expect(left()).toEqual([
          ...[1, 3, 5].map((days) => `export/runner/ci/${days}/cache.zip`),
          ...[2, 4, 6].map((days) => `registry/docker/registry/v2/blobs/sha256/ab/ab${days}/data`),
        ]);
      },
    );

    testIf(mounted)("age is for caches only, and comes before the mark", async () => {
      file("ci/old/cache.zip", 20, 2 ** 20);
      file("ci/new/cache.zip", 1, 2 ** 20);
      for (let number = 0; number < 5; number++) blob(`ab${number}`, 30);
      const { stdout } = await prune({ highWaterPercent: 65 });
      expect(stdout).toMatch(/^Deleted 1 build caches \(1 MB\) .* 0 more \(0 MB\) and 1 layers .* 50 % full now/);
      expect(left()).toHaveLength(5);
    });

    testIf(mounted)("says so when neither cache nor mirror is what fills it", async () => {
      file("ci/1/cache.zip", 1, 2 ** 20);
      blob("ab1", 1);
      writeFileSync(join(disk(), "huge"), Buffer.alloc(7 * 2 ** 20));
      const { status, stdout } = await prune({ highWaterPercent: 65 });
      expect(status).toBe(0);
      expect(stdout).toContain(
        "The data disk is still over 65 % full, and neither a build cache nor a mirrored image is left to delete: make the disk bigger.",
      );
      expect(left()).toEqual(["huge"]);
      expect(existsSync(bucket())).toBe(true);
    });
  });
});
