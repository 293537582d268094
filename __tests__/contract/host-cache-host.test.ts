import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { FakeGoogle } from "./fakes/google";
import { cloudInit, pathWith, program, recorder, run, onGoogle, testIf } from "./fakes/host";

let google: FakeGoogle;
let folder: string;

onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
});

const environment = () => ({
  ...google.environment,
  HOST_ROOT: folder,
  HOST_LIB: join(cloudInit, "host"),
  PATH: pathWith(join(folder, "bin")),
});
const cacheHost = join(cloudInit, "cache-host/cache-host");

describe("keys", () => {
  const secret = "projects/my-project/secrets/gitlab-runner-cache-keys";
  const keys = () => run("bash", ["-c", `. ${cacheHost}; keys`], environment());

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
      access_key: expect.stringMatching(/^[A-Z0-9]{20}$/) as string,
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
      /^Deleted 2 build caches older than 14 days and 0 more because the disk was over 100 % full; it is \d+ % full now, \d+ % before\.\n$/,
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

    testIf(mounted)("the oldest go first, until it is below the mark", async () => {
      for (let days = 1; days <= 9; days++) file(`ci/${days}/cache.zip`, days, 2 ** 20);
      const { status, stdout } = await prune({ highWaterPercent: 65 });
      expect(status).toBe(0);
      expect(stdout).toMatch(
        /^Deleted 0 build caches .* and 3 more because the disk was over 65 % full; it is 60 % full now, 90 % before\.\n$/,
      );
      expect(files().filter((name) => name.endsWith(".zip"))).toEqual(
        [1, 2, 3, 4, 5, 6].map((days) => `ci/${days}/cache.zip`),
      );
    });

    testIf(mounted)("says so when the build cache is not what fills it", async () => {
      file("ci/1/cache.zip", 1, 2 ** 20);
      writeFileSync(join(disk(), "registry"), Buffer.alloc(8 * 2 ** 20));
      const { status, stdout } = await prune({ highWaterPercent: 65 });
      expect(status).toBe(0);
      expect(stdout).toContain(
        "The data disk is still over 65 % full, and no build cache is left to delete: make the disk bigger",
      );
      expect(existsSync(bucket())).toBe(true);
    });
  });
});
