import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { describeIf, Ended, programAvailable, project, run, temporaryFolder } from "./programs";

/** The program that runs a file: of its first line, or by its name for a file that others take in. */
function interpreterOf(path: string): string | undefined {
  const [, interpreter] = /^#!(?:\/usr\/bin\/env |\/(?:usr\/)?bin\/)(\w+)/.exec(readFileSync(path, "utf8")) ?? [];
  return interpreter ?? { ".sh": "bash", ".py": "python3" }[extname(path)];
}

const scripts = ["cloud-init", ".ci", "__tests__"]
  .flatMap((folder) =>
    readdirSync(join(project, folder), { recursive: true, encoding: "utf8" }).map((name) => join(folder, name)),
  )
  .filter((path) => statSync(join(project, path)).isFile())
  .map((path) => ({ path, interpreter: interpreterOf(join(project, path)) }));
const shellScripts = scripts.filter(({ interpreter }) => interpreter === "bash" || interpreter === "sh");
const pythonPrograms = scripts.filter(({ interpreter }) => interpreter === "python3");

const FOLDER = temporaryFolder();

describeIf(programAvailable("shellcheck"))("shellcheck", () => {
  const shellcheck = (path: string): Promise<Ended> =>
    run(["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", path], { cwd: project });

  test.each(shellScripts)("has nothing to say of $path", async ({ path }) => {
    expect(await shellcheck(path)).toEqual({ status: 0, stdout: "", stderr: "" });
  });

  test.each(shellScripts)("finds a variable without quotes in a copy of $path", async ({ path, interpreter }) => {
    const broken = join(FOLDER, "broken.sh");
    writeFileSync(broken, `#!/bin/${interpreter}\n${readFileSync(join(project, path), "utf8")}\nx="a b"; rm $x\n`);
    expect(await shellcheck(broken)).toMatchObject({ status: 1, stdout: expect.stringContaining("SC2086") as unknown });
  });
});

describeIf(programAvailable("python3"))("Python", () => {
  const compile = (path: string): Promise<Ended> =>
    run(["python3", "-m", "py_compile", path], { cwd: project, env: { PYTHONPYCACHEPREFIX: join(FOLDER, "pycache") } });

  test.each(pythonPrograms)("compiles $path", async ({ path }) => {
    expect(await compile(path)).toEqual({ status: 0, stdout: "", stderr: "" });
  });

  test.each(pythonPrograms)("does not compile a broken copy of $path", async ({ path }) => {
    const broken = join(FOLDER, "broken.py");
    writeFileSync(broken, `${readFileSync(join(project, path), "utf8")}\ndef :\n`);
    expect(await compile(broken)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("SyntaxError") as unknown,
    });
  });
});
