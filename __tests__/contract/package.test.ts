import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ended, outputOf, project, run, temporaryFolder } from "./programs";

interface Manifest {
  readonly name: string;
  readonly peerDependencies: { readonly [name: string]: string };
  readonly devDependencies: { readonly [name: string]: string };
}

/** What a fresh clone does not have. */
const NOT_CLONED = [".git", "node_modules", "lib", "cdktf.out"];

/** An app that uses all that the package has. */
const MAIN = `
import { GoogleProvider } from "@cdktf/provider-google/lib/provider";
import { NullProvider } from "@cdktf/provider-null/lib/provider";
import { App, TerraformStack, TerraformVariable } from "cdktf";
import {
  BuildCacheServer, CacheHost, type CacheHostProps, DockerMachineWorkers, IMAGES, type Labels, RunnerHost, RunnerNetwork,
  RunnerRegistration, RunnerTokenSecret, type RunnerWorkers,
} from "PACKAGE";

const app = new App();
const stack = new TerraformStack(app, "consumer");
const project = "my-project";
const zone = "us-central1-a";
const labels: Labels = { team: "ci" };
new GoogleProvider(stack, "google", { project });
new NullProvider(stack, "null");
const network = new RunnerNetwork(stack, "Network", { project, region: "us-central1" });
const cacheProps: CacheHostProps = {
  project, zone, network, labels, buildCacheServer: BuildCacheServer.MINIO, registryImage: IMAGES.registry,
};
const cacheHost = new CacheHost(stack, "Cache", cacheProps);
const host = new RunnerHost(stack, "Host", { project, zone, network, labels });
const workers: RunnerWorkers = new DockerMachineWorkers(stack, "Workers", { project, zone, network, labels });
const token = new TerraformVariable(stack, "token", { type: "string", sensitive: true });
new RunnerRegistration(stack, "Runner", {
  host, workers, cacheHost, gitlabUrl: "https://gitlab.example.com",
  token: new RunnerTokenSecret(stack, "Token", { project, secretId: "runner-token", token: token.stringValue }),
});
app.synth();
`;

describe("the npm package", () => {
  const folder = temporaryFolder();
  const consumer = join(folder, "consumer");
  const manifest = JSON.parse(readFileSync(join(project, "package.json"), "utf8")) as Manifest;
  let packed: string[];

  beforeAll(async () => {
    const clone = join(folder, "clone");
    cpSync(project, clone, {
      recursive: true,
      filter: (path) => !NOT_CLONED.some((name) => path === join(project, name)),
    });
    symlinkSync(join(project, "node_modules"), join(clone, "node_modules"));
    await outputOf(["npm", "pack", "--pack-destination", folder], { cwd: clone });
    const tarball = join(
      folder,
      readdirSync(folder).find((name) => name.endsWith(".tgz"))!,
    );
    packed = (await outputOf(["tar", "-tzf", tarball])).trimEnd().split("\n").sort();

    mkdirSync(consumer);
    writeFileSync(join(consumer, "package.json"), JSON.stringify({ name: "consumer", private: true }));
    writeFileSync(join(consumer, "main.ts"), MAIN.replace("PACKAGE", manifest.name));
    const peers = [...Object.keys(manifest.peerDependencies), "typescript", "@types/node"];
    const exact = peers.map((name) => `${name}@${manifest.devDependencies[name]}`);
    const options = ["--no-audit", "--no-fund", "--prefer-offline", "--save-exact"];
    await outputOf(["npm", "install", ...options, tarball, ...exact], { cwd: consumer, seconds: 240 });
  });

  test("has the code, its types, the templates and the hosts' files", () => {
    const files = (of: string) =>
      readdirSync(join(project, of), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join("package", of, entry.parentPath.slice(join(project, of).length), entry.name));
    expect(packed).toEqual(expect.arrayContaining(files("cloud-init")));
    for (const source of readdirSync(join(project, "constructs"))) {
      const module = `package/lib/${source.replace(/\.ts$/, "")}`;
      expect(packed).toEqual(expect.arrayContaining([`${module}.js`, `${module}.d.ts`]));
    }
    expect(packed).toEqual(expect.arrayContaining(["package/package.json", "package/README.md", "package/LICENSE"]));
  });

  test("has no sources, tests, examples, CI or anything else", () => {
    const others = packed.filter(
      (path) =>
        !/^package\/(cloud-init\/|lib\/[^/]+(\.js|\.d\.ts)$|(package\.json|README\.md|LICENSE|CHANGELOG\.md)$)/.test(
          path,
        ),
    );
    expect(others).toEqual([]);
  });

  const compile = (...options: string[]): Promise<Ended> => {
    const strict = [
      "--strict",
      "--target",
      "es2022",
      "--module",
      "node16",
      "--types",
      "node",
      "--exactOptionalPropertyTypes",
    ];
    return run([join(consumer, "node_modules/.bin/tsc"), ...strict, ...options, "main.ts"], { cwd: consumer });
  };

  test("has types without an error of their own", async () => {
    const { stdout } = await compile("--noEmit", "--skipLibCheck", "false");
    expect(stdout.split("\n").filter((line) => line.startsWith(`node_modules/${manifest.name}/`))).toEqual([]);
  });

  test("compiles in a strict app, which synthesizes", async () => {
    expect(await compile("--skipLibCheck")).toEqual({ status: 0, stdout: "", stderr: "" });
    await outputOf(["node", "main.js"], { cwd: consumer, env: { CDKTF_OUTDIR: join(folder, "cdktf.out") } });
    const json = readFileSync(join(folder, "cdktf.out/stacks/consumer/cdk.tf.json"), "utf8");
    expect(json).toMatch(/#cloud-config\\n.*runner-host-bootstrap\.service/);
    expect(json).toMatch(/quay\.io\/minio\/minio/);
  });

  test("does not compile with a property that is missing", async () => {
    const main = join(consumer, "main.ts");
    const right = readFileSync(main, "utf8");
    writeFileSync(
      main,
      right.replace(
        "{ project, zone, network, labels });\nconst workers",
        "{ zone, network, labels });\nconst workers",
      ),
    );
    const { status, stdout } = await compile("--skipLibCheck", "--noEmit");
    expect({ status, stdout }).toEqual({ status: 2, stdout: expect.stringMatching(/'project' is missing/) as unknown });
    writeFileSync(main, right);
  });
});
