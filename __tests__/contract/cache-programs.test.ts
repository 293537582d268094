import { createHash, createHmac, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { parse as parseYaml } from "yaml";
import { CacheHost, CacheHostProps } from "../../constructs";
import { evaluated, place, synthesized } from "../synthesized";
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
  type Running,
} from "./fakes/host";
import { describeIf } from "./programs";

let google: FakeGoogle;
let folder: string;
let library: string;
const servers: Running[] = [];

onGoogle((fake, temporary) => {
  google = fake;
  folder = temporary;
  library = cacheHostLibrary(folder);
  const settings = { bucket: "runner", buildCacheServer: "versitygw", maxAgeDays: 14, highWaterPercent: 85 };
  google.setAttribute("cache-settings", JSON.stringify(settings));
});
afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.process.kill("SIGKILL");
    await server.ended;
  }
});

const environment = () => ({
  ...google.environment,
  HOST_ROOT: folder,
  HOST_LIB: library,
  PATH: pathWith(join(folder, "bin")),
});
const cacheHost = (...args: string[]) => run(join(cloudInit, "cache-host/cache-host"), args, environment());

/** A service of the compose file, as the stack has it. */
function service(name: string, props: Partial<CacheHostProps> = {}) {
  const stack = synthesized((scope) => new CacheHost(scope, "Cache", { ...place, ...props }));
  const { services } = parseYaml(evaluated(stack.one("google_compute_instance").metadata["compose-yaml"])) as {
    services: { [name: string]: { command: string[]; environment: { [name: string]: string } } };
  };
  return services[name];
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Runs it until it answers; it is killed after the test. */
async function serve(
  url: string,
  command: string,
  args: string[],
  variables: Record<string, string>,
): Promise<Running> {
  const server = start(command, args, variables);
  servers.push(server);
  for (const end = Date.now() + 20_000; ;) {
    if (
      await fetch(url).then(
        () => true,
        () => false,
      )
    ) {
      return server;
    }
    if (Date.now() > end || server.status !== null) {
      throw new Error(`${command} does not answer: ${server.stdout}${server.stderr}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function stop(server: Running): Promise<void> {
  server.process.kill("SIGTERM");
  await server.ended;
  servers.splice(servers.indexOf(server), 1);
}

const versitygw = program("versitygw");
describeIf(versitygw !== undefined)("the build cache's keys, with versitygw", () => {
  const secret = "projects/my-project/secrets/keys";
  const first = { access_key: "CFIRST", secret_key: "first-secret" };
  let port: number;

  const data = () => join(folder, "srv/cache");
  const users = () => join(data(), "iam/users.json");
  const keysFile = () => join(folder, "etc/gitlab-runner-gce/build-cache-keys.json");
  const current = () => JSON.parse(google.secrets.get(secret)!.at(-1)!) as typeof first;

  beforeEach(async () => {
    mkdirSync(join(data(), "export/runner"), { recursive: true });
    mkdirSync(join(folder, "etc/gitlab-runner-gce"), { recursive: true });
    writeFileSync(
      join(folder, "etc/gitlab-runner-gce/settings.json"),
      JSON.stringify({ buildCacheKeysSecret: secret }),
    );
    google.secrets.set(secret, [JSON.stringify(first)]);
    writeFileSync(keysFile(), JSON.stringify(first));
    port = await freePort();
  });

  const gateway = (args: string[], root: typeof first) =>
    serve(`http://127.0.0.1:${port}/`, versitygw!, args, {
      ROOT_ACCESS_KEY: root.access_key,
      ROOT_SECRET_KEY: root.secret_key,
    });

  /** As in the container, with the paths and ports that it has there. */
  async function buildCache(): Promise<Running> {
    const admin = await freePort();
    const inside: { [word: string]: string } = {
      ":9000": `127.0.0.1:${port}`,
      "127.0.0.1:9001": `127.0.0.1:${admin}`,
      "/iam": join(data(), "iam"),
      "/export": join(data(), "export"),
    };
    const { command } = service("build-cache");
    expect(command).toEqual(expect.arrayContaining(Object.keys(inside)));
    await run("bash", ["-c", `. ${join(cloudInit, "cache-host/cache-host")}; server_account`], environment());
    const root = readFileSync(join(folder, "etc/gitlab-runner-gce/build-cache-root.env"), "utf8");
    const [, access_key, secret_key] = /^ROOT_ACCESS_KEY=(\w{20})\nROOT_SECRET_KEY=(\w{40})\n$/.exec(root)!;
    return gateway(
      command.map((word) => inside[word] ?? word),
      { access_key, secret_key },
    );
  }

  const object = "ci/project/1/default/cache.zip";
  const get = async (keys: typeof first, path = object) => (await fetch(signed(port, keys, "GET", path))).status;
  const put = async (keys: typeof first, body = "x", path = object) =>
    (await fetch(signed(port, keys, "PUT", path), { method: "PUT", body })).status;

  test("what was there when the clients were root stays readable and writable", async () => {
    const before = await gateway(["--port", `127.0.0.1:${port}`, "--quiet", "posix", join(data(), "export")], first);
    expect(await put(first, "from before")).toBe(200);
    await stop(before);

    expect(await cacheHost("accept-keys")).toMatchObject({ status: 0, stdout: "", stderr: "" });
    await buildCache();
    expect(await (await fetch(signed(port, first, "GET", object))).text()).toBe("from before");
    expect(await put(first, "from now")).toBe(200);
    expect(readFileSync(join(data(), "export/runner", object), "utf8")).toBe("from now");
    expect(await get({ ...first, secret_key: "another" })).toBe(403);
    expect((await fetch(`http://127.0.0.1:${port}/runner/${object}`)).status).toBe(403);
  });

  test("a new pair is accepted before it is in the secret, the old one until it is revoked, which is at once", async () => {
    await cacheHost("accept-keys");
    await buildCache();
    expect(await put(first)).toBe(200);
    const url = signed(port, first, "GET", object);

    const rotated = await cacheHost("rotate-keys");
    expect(rotated).toMatchObject({ status: 0, stderr: "" });
    const second = current();
    expect(second).not.toEqual(first);
    expect(await put(second, "second")).toBe(200);
    expect(await (await fetch(url)).text()).toBe("second");
    expect(await put(first)).toBe(200);

    // What the follower of the secret does half a minute later.
    writeFileSync(keysFile(), JSON.stringify(second));
    await cacheHost("accept-keys");
    expect([await get(first), await get(second)]).toEqual([200, 200]);

    const revoked = await cacheHost("revoke-old-keys");
    expect(revoked).toMatchObject({ status: 0, stderr: "" });
    expect(revoked.stdout).toContain("old pairs that ended now: 1.");
    expect([await get(first), (await fetch(url)).status, await put(first)]).toEqual([403, 403, 403]);
    expect([await get(second), await put(second)]).toEqual([200, 200]);
    for (const keys of [first, second]) {
      for (const text of [rotated.stdout, revoked.stdout]) expect(text).not.toContain(keys.secret_key);
    }
    expect(statSync(users()).mode & 0o777).toBe(0o600);
  });

  test("the API that lists them is not for who reaches the build cache", async () => {
    await cacheHost("accept-keys");
    await buildCache();
    const { stdout } = await run("curl", [
      ...[
        "-s",
        "-X",
        "PATCH",
        "--aws-sigv4",
        "aws:amz:us-east-1:s3",
        "--user",
        `${first.access_key}:${first.secret_key}`,
      ],
      ...["-H", `x-amz-content-sha256: ${createHash("sha256").digest("hex")}`],
      ...["-w", "%{http_code}", `http://127.0.0.1:${port}/list-users`],
    ]);
    expect(stdout).toMatch(/[45]\d\d$/);
    expect(stdout).not.toContain(first.secret_key);
  });
});

const registry = program("registry");
describeIf(registry !== undefined)("the registry mirror, with registry", () => {
  const layers = [randomBytes(100_000), randomBytes(50_000)];
  const config = Buffer.from(JSON.stringify({ architecture: "amd64", os: "linux", rootfs: { type: "layers" } }));
  const descriptor = (blob: Buffer, mediaType: string) => ({ mediaType, size: blob.length, digest: digest(blob) });
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: descriptor(config, "application/vnd.oci.image.config.v1+json"),
      layers: layers.map((layer) => descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip")),
    }),
  );
  const blobs = [config, ...layers];
  const headers = { "Content-Type": "application/vnd.oci.image.manifest.v1+json" };
  let upstream: string;
  let mirror: string;

  const store = () => join(folder, "srv/cache/registry/docker/registry/v2");
  const path = (blob: Buffer) => {
    const hex = digest(blob).replace("sha256:", "");
    return join(store(), "blobs/sha256", hex.slice(0, 2), hex);
  };
  const stored = () => [...blobs, manifest].map((blob) => existsSync(join(path(blob), "data")));
  // The client has it before the disk.
  const allStored = () => eventually("stored", () => !stored().includes(false));

  beforeEach(async () => {
    mkdirSync(join(folder, "srv/cache/export/runner"), { recursive: true });
    recorder(join(folder, "bin"), "df", "printf 'Use%%\\n 90%%\\n'");
    upstream = await serveRegistry(join(folder, "upstream"));
    for (const blob of blobs) {
      const { headers } = await fetch(`${upstream}/v2/library/a/blobs/uploads/`, { method: "POST" });
      const location = `${headers.get("location")}&digest=${digest(blob)}`;
      expect((await fetch(location, { method: "PUT", body: blob })).status).toBe(201);
    }
    const put = { method: "PUT", body: manifest, headers };
    expect((await fetch(`${upstream}/v2/library/a/manifests/latest`, put)).status).toBe(201);
  });

  /** With a configuration file as in the image, and the variables of the compose file. */
  async function serveRegistry(root: string, variables: Record<string, string> = {}): Promise<string> {
    const address = `127.0.0.1:${await freePort()}`;
    mkdirSync(root, { recursive: true });
    const file = join(root, "config.yml");
    writeFileSync(
      file,
      `version: 0.1
storage: {cache: {blobdescriptor: inmemory}, filesystem: {rootdirectory: ${root}}}
http: {addr: ${address}}
`,
    );
    const all = { OTEL_TRACES_EXPORTER: "none", ...variables };
    await serve(`http://${address}/v2/`, registry!, ["serve", file], all);
    return `http://${address}`;
  }

  async function serveMirror(ttl: string): Promise<void> {
    const { environment } = service("registry-mirror", { registryUpstream: upstream, registryTtl: ttl });
    // Its ports are those of a container.
    const variables = Object.entries(environment).filter(([name]) => !name.startsWith("REGISTRY_HTTP_"));
    mirror = await serveRegistry(join(folder, "srv/cache/registry"), Object.fromEntries(variables));
  }

  /** As Docker does: the tag, its manifest, and what that names. */
  async function pull(): Promise<void> {
    const fetched = async (url: string) => {
      const answer = await fetch(`${mirror}/v2/library/a/${url}`, { headers: { Accept: headers["Content-Type"] } });
      return { status: answer.status, digest: digest(Buffer.from(await answer.arrayBuffer())) };
    };
    for (const reference of ["latest", digest(manifest)]) {
      expect(await fetched(`manifests/${reference}`)).toEqual({ status: 200, digest: digest(manifest) });
    }
    for (const blob of blobs) {
      expect(await fetched(`blobs/${digest(blob)}`)).toEqual({ status: 200, digest: digest(blob) });
    }
  }

  function touch(file: string, hours: number): void {
    const time = Date.now() / 1000 - hours * 3600;
    utimesSync(file, time, time);
  }

  async function prune(): Promise<string> {
    for (const blob of [...blobs, manifest]) touch(join(path(blob), "data"), 1);
    const { status, stdout, stderr } = await cacheHost("prune");
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    return stdout;
  }

  test("gets again what was deleted, while it runs", async () => {
    await serveMirror("168h");
    await pull();
    await allStored();
    expect(await prune()).toContain(" and 4 layers and manifests of the registry mirror (0 MB) ");
    expect(stored()).toEqual([false, false, false, false]);
    await pull();
    await allStored();
  });

  test("keeps what it fetched just now, and what it is fetching", async () => {
    await serveMirror("168h");
    await pull();
    const uploads = join(store(), "repositories/library/a/_uploads");
    for (const name of ["interrupted", "running"]) {
      mkdirSync(join(uploads, name, "hashstates"), { recursive: true });
      writeFileSync(join(uploads, name, "data"), "x");
    }
    for (const name of ["hashstates", "data", ""]) touch(join(uploads, "interrupted", name), 25);
    touch(join(path(layers[0]), "data"), 1);
    const { stdout } = await cacheHost("prune");
    expect(stdout).toContain(" and 1 layers and manifests of the registry mirror ");
    expect(stdout).toContain(
      "The data disk is still over 85 % full, and neither a build cache nor a mirrored image is ",
    );
    expect(stored()).toEqual([true, false, true, true]);
    expect(readdirSync(uploads)).toEqual(["running"]);
  });

  test("forgets a layer when its time since the fetch is over, pulled meanwhile or not, deleted before or not", async () => {
    await serveMirror("4s");
    await pull();
    const start = Date.now();
    const until = (seconds: number) =>
      new Promise((resolve) => setTimeout(resolve, start + seconds * 1000 - Date.now()));
    await until(2);
    rmSync(path(config), { recursive: true });
    await pull();
    await until(5);
    // config was fetched twice.
    expect(stored().slice(0, 3)).toEqual([true, false, false]);
    rmSync(path(config), { recursive: true });
    await until(7);
    await pull();
    await allStored();
  });
});

function digest(blob: Buffer): string {
  return `sha256:${createHash("sha256").update(blob).digest("hex")}`;
}

/** A URL as the runner's manager makes them, valid for an hour. */
function signed(
  port: number,
  { access_key, secret_key }: { access_key: string; secret_key: string },
  method: string,
  path: string,
): string {
  const host = `127.0.0.1:${port}`;
  const time = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
  const scope = `${time.slice(0, 8)}/us-east-1/s3/aws4_request`;
  const query = new URLSearchParams({
    "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
    "X-Amz-Credential": `${access_key}/${scope}`,
    "X-Amz-Date": time,
    "X-Amz-Expires": "3600",
    "X-Amz-SignedHeaders": "host",
  }).toString();
  const request = [method, `/runner/${path}`, query, `host:${host}`, "", "host", "UNSIGNED-PAYLOAD"].join("\n");
  const hash = createHash("sha256").update(request).digest("hex");
  const hmac = (key: string | Buffer, text: string) => createHmac("sha256", key).update(text).digest();
  const key = scope.split("/").reduce<string | Buffer>(hmac, `AWS4${secret_key}`);
  const signature = hmac(key, `AWS4-HMAC-SHA256\n${time}\n${scope}\n${hash}`).toString("hex");
  return `http://${host}/runner/${path}?${query}&X-Amz-Signature=${signature}`;
}
