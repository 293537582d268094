import { type ChildProcess, spawn, type StdioOptions } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "./commands";
import { LAB } from "./settings";

const ROOT = existsSync("/sys/fs/cgroup/cgroup.procs") ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified";

/** Processes that end together, whatever they start: a control group. It outlives who made it, and is found by its name. */
export class ProcessGroup {
  readonly folder: string;

  constructor(readonly name: string) {
    this.folder = join(ROOT, LAB, name);
  }

  static all(): ProcessGroup[] {
    const folder = join(ROOT, LAB);
    const names = existsSync(folder) ? readdirSync(folder, { withFileTypes: true }) : [];
    return names.filter((entry) => entry.isDirectory()).map(({ name }) => new ProcessGroup(name));
  }

  static removeAll(): void {
    removeFolders(join(ROOT, LAB));
  }

  /** Moves this very process into the group. */
  enter(): void {
    mkdirSync(this.folder, { recursive: true });
    writeFileSync(join(this.folder, "cgroup.procs"), `${process.pid}`);
  }

  spawn(
    program: string,
    args: readonly string[],
    options: { stdio: StdioOptions; env?: NodeJS.ProcessEnv },
  ): ChildProcess {
    mkdirSync(this.folder, { recursive: true });
    const enter = 'echo $$ >"$0" && exec setsid "$@"';
    return spawn("sh", ["-c", enter, join(this.folder, "cgroup.procs"), program, ...args], options);
  }

  /** Ids of the processes in it and below. */
  get processes(): number[] {
    const below = (folder: string): string[] =>
      readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
        entry.isDirectory() ? below(join(folder, entry.name)) : entry.name === "cgroup.procs" ? [folder] : [],
      );
    return existsSync(this.folder)
      ? below(this.folder).flatMap((folder) =>
          readFileSync(join(folder, "cgroup.procs"), "utf8").split("\n").filter(Boolean).map(Number),
        )
      : [];
  }

  /** Ends all of them at once and removes the group. */
  async kill(): Promise<void> {
    if (existsSync(this.folder)) {
      writeFileSync(join(this.folder, "cgroup.kill"), "1");
      await until(
        `the end of ${this.name}`,
        20,
        () => {
          removeFolders(this.folder); // an error while a process in it is still ending
          return true;
        },
        0.05,
      );
    }
  }
}

/** The kernel's own files in them go with them. Somebody else may be at it too. */
function removeFolders(folder: string): void {
  try {
    readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .forEach((entry) => removeFolders(join(folder, entry.name)));
    rmdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      throw error;
    }
  }
}
