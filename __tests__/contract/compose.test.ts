import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { App, TerraformStack, Testing } from "cdktf";
import { CacheHost } from "../../constructs";
import { HOSTILE, HOSTILE_LITERALS } from "./hostile-values";
import { describeIf, dockerCompose, Ended, programAvailable, run, temporaryFolder } from "./programs";
import { attribute, renderMetadata, renderSubject, Table } from "./rendered";
import { SUBJECTS } from "./subjects";
import { parse } from "./terraform";

const command = dockerCompose();
const available = programAvailable("terraform") && command !== undefined;

/** What Docker Compose says of this file, in a folder with nothing else in it. */
function config(folder: string, text: string, ...options: string[]): Promise<Ended> {
  mkdirSync(folder, { recursive: true });
  const file = join(folder, "compose.yaml");
  // What a host has made before.
  const account = join(folder, "build-cache-root.env");
  writeFileSync(account, "ROOT_ACCESS_KEY=A\nROOT_SECRET_KEY=B\n");
  writeFileSync(file, text.replaceAll("/etc/gitlab-runner-gce/build-cache-root.env", account));
  return run([...command!, "-f", file, "config", ...options], { cwd: folder });
}

describeIf(available).each(SUBJECTS)("the compose file of $name", (subject) => {
  const folder = temporaryFolder();
  let files: string[];

  beforeAll(async () => {
    files = attribute(await renderSubject(subject, folder), "compose-yaml");
  });

  test("is valid for Docker Compose, and no variable in it is missing", async () => {
    for (const text of files) {
      const { status, stdout, stderr } = await config(join(folder, "compose"), text, "--quiet");
      expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "", stderr: "" });
    }
  });

  test("needs the file with the account of the build cache's server", async () => {
    for (const text of files) {
      const missing = text.replaceAll("/etc/gitlab-runner-gce/", "/nowhere/");
      expect(missing).not.toBe(text);
      expect((await config(join(folder, "compose"), missing, "--quiet")).stderr).toContain(
        "build-cache-root.env not found",
      );
    }
  });

  test.each([
    ["a key that is wrong", /^ {4}restart:/m, "    restrat:"],
    ["a port that is none", /^ {4}ports: .*$/m, '    ports: ["many:5000"]'],
    ["an indentation that is lost", /^ {6}REGISTRY_PROXY_TTL/m, " REGISTRY_PROXY_TTL"],
  ])("is not valid any more with %s", async (_, pattern, replacement) => {
    for (const text of files) {
      const broken = text.replace(pattern, replacement);
      expect(broken).not.toBe(text);
      expect((await config(join(folder, "compose"), broken, "--quiet")).status).not.toBe(0);
    }
  });
});

describeIf(available)("a value in the compose file", () => {
  const folder = temporaryFolder();
  const values = Object.entries({ ...HOSTILE, ...HOSTILE_LITERALS });
  let files: string[];

  beforeAll(async () => {
    const stack = new TerraformStack(new App({ outdir: folder }), "compose");
    values.forEach(([, value], number) => {
      new CacheHost(stack, `host-${number.toString().padStart(2, "0")}`, {
        project: "my-project",
        zone: "us-central1-a",
        network: { network: "default", subnetwork: "default" },
        dockerHubUsername: value("user"),
        dockerHubToken: { project: "my-project", secretId: "hub" },
      });
    });
    files = attribute([...(await renderMetadata(folder, parse(Testing.synth(stack)), {})).values()], "compose-yaml");
  });

  test.each(values.map(([what], number) => [what, number] as const))(
    "with %s reaches the container as it is",
    async (_, number) => {
      const { stdout, stderr } = await config(join(folder, String(number)), files[number], "--format", "json");
      expect(stderr).toBe("");
      const { services } = JSON.parse(stdout) as { services: { [name: string]: { environment: Table } } };
      const { REGISTRY_PROXY_USERNAME } = services["registry-mirror"].environment;
      // What it writes is a compose file again.
      expect((REGISTRY_PROXY_USERNAME as string).replace(/\$\$/g, () => "$")).toBe(values[number][1]("user"));
    },
  );
});
