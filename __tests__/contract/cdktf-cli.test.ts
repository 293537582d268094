import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { outputOf, project, temporaryFolder } from "./programs";
import { synthesize } from "./subjects";

/** What a checkout has and an app needs; the rest would only make the copy larger. */
const APP = ["cdktf.json", "package.json", "tsconfig.json", "main.ts", "constructs", "cloud-init"];

describe("cdktf synth", () => {
  const folder = temporaryFolder();
  const copy = join(folder, "copy");

  beforeAll(async () => {
    mkdirSync(copy);
    APP.forEach((name) => cpSync(join(project, name), join(copy, name), { recursive: true }));
    symlinkSync(join(project, "node_modules"), join(copy, "node_modules"));
    await outputOf(["npx", "--yes", "cdktf-cli@0.21.0", "synth"], {
      cwd: copy,
      env: { CI: "1", CHECKPOINT_DISABLE: "1", HOME: folder, npm_config_cache: npmCache() },
      seconds: 280,
    });
  });

  test("writes the same bytes as the bare app", async () => {
    const cli = readFileSync(join(copy, "cdktf.out/stacks/gitlab-runner/cdk.tf.json"), "utf8");
    expect(cli).toBe(await synthesize("main.ts", join(folder, "cdktf.out")));
  });

  test("leaves the app's own files alone", () => {
    expect(readFileSync(join(copy, "cdktf.json"), "utf8")).toBe(readFileSync(join(project, "cdktf.json"), "utf8"));
    expect(existsSync(join(copy, ".gen"))).toBe(false);
  });
});

/** npx keeps what it installs there, below the home folder if nothing else is said. */
function npmCache(): string | undefined {
  return process.env["npm_config_cache"] ?? (process.env["HOME"] && join(process.env["HOME"], ".npm"));
}
