import { cpSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { outputOf, project, temporaryFolder } from "./programs";
import { synthesize } from "./subjects";

const folder = temporaryFolder();

describe("what is synthesized", () => {
  let json: string;

  beforeAll(async () => {
    json = await synthesize("main.ts", join(folder, "cdktf.out"));
  });

  test("is the same in another folder, for another user, in another language and time zone", async () => {
    const copy = join(folder, "another place");
    mkdirSync(copy);
    for (const name of ["package.json", "tsconfig.json", "main.ts", "constructs", "cloud-init"]) {
      cpSync(join(project, name), join(copy, name), { recursive: true });
    }
    symlinkSync(join(project, "node_modules"), join(copy, "node_modules"));
    const env = {
      HOME: copy,
      USER: "somebody",
      TZ: "Pacific/Kiritimati",
      LANG: "tr_TR.UTF-8",
      LC_ALL: "tr_TR.UTF-8",
      SOURCE_DATE_EPOCH: "0",
      TF_VAR_project: "from-the-environment",
      GOOGLE_PROJECT: "from-the-environment",
      NODE_ENV: "production",
    };
    expect(await synthesize("main.ts", join(folder, "another.out"), { cwd: copy, env })).toBe(json);
  });

  test("has no path of this folder in it", () => {
    expect(json).not.toContain(project);
    expect(json).not.toMatch(/node_modules|cdktf\.out/);
  });
});

test("synthesizing takes at most four times what it takes to load cdktf", async () => {
  const seconds = async (command: string[]): Promise<number> => {
    const start = process.hrtime.bigint();
    await outputOf(command, { cwd: project, env: { CDKTF_OUTDIR: join(folder, "out") } });
    return Number(process.hrtime.bigint() - start) / 1e9;
  };
  const app: number[] = [];
  const cdktf: number[] = [];
  for (let round = 0; round < 7; round++) {
    app.push(await seconds(["node", "--import", "tsx", "main.ts"]));
    cdktf.push(await seconds(["node", "-e", 'require("cdktf")']));
  }
  expect(Math.min(...app) / Math.min(...cdktf)).toBeLessThan(4);
});
