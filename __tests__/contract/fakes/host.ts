import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { chmodSync, mkdtempSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, delimiter, join } from "node:path";
import { available } from "../programs";
import { FakeGoogle } from "./google";

export const cloudInit = join(__dirname, "../../../cloud-init");

export interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}

export interface Running extends Ended {
  process: ChildProcess;
  ended: Promise<Ended>;
}

/** Not spawnSync: the fakes answer from this very process. */
export function start(command: string, args: string[], environment: Record<string, string> = {}): Running {
  const child = spawn(command, args, {
    env: { PATH: process.env.PATH ?? "", HOME: "/nonexistent", ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const running = { process: child, status: null, stdout: "", stderr: "" } as unknown as Running;
  child.stdout.on("data", (data) => (running.stdout += String(data)));
  child.stderr.on("data", (data) => (running.stderr += String(data)));
  running.ended = new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status) => {
      running.status = status;
      resolve(running);
    });
  });
  return running;
}

export const run = (command: string, args: string[], environment?: Record<string, string>): Promise<Ended> =>
  start(command, args, environment).ended;

/** Gives each test of the file a Google and a folder of its own. */
export function onGoogle(use: (google: FakeGoogle, folder: string) => void): void {
  let google: FakeGoogle;
  let folder: string;
  beforeEach(async () => {
    google = await new FakeGoogle().listen();
    folder = temporaryFolder();
    use(google, folder);
  });
  afterEach(() => {
    google.close();
    rmSync(folder, { recursive: true });
  });
}

export const temporaryFolder = (): string => mkdtempSync(join(tmpdir(), "gitlab-runner-gce-"));

/** A program on a PATH of its own that writes its arguments, one call a line, to the file `NAME.calls` beside it, and then runs `body`. */
export function recorder(folder: string, name: string, body = ""): void {
  mkdirSync(folder, { recursive: true });
  const file = join(folder, name);
  writeFileSync(file, `#!/bin/bash\nprintf '%s\\n' "$*" >>"$0.calls"\n${body}\n`);
  chmodSync(file, 0o755);
}

export const pathWith = (...folders: string[]): string => [...folders, process.env.PATH].join(delimiter);

export async function eventually(what: string, condition: () => boolean, seconds = 20): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !condition();) {
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Where the program is. Without it the tests that need it are skipped, but not in CI. */
export function program(name: string): string | undefined {
  const found = spawnSync("which", [name], { encoding: "utf8" }).stdout.trim();
  return available(found !== "", `${name} is not on PATH`) ? found : undefined;
}

export const testIf = (condition: boolean): jest.It => (condition ? test : test.skip);

/** What is in /usr/local/lib/gitlab-runner-gce on a cache host. */
export function cacheHostLibrary(folder: string): string {
  const library = join(folder, "lib");
  mkdirSync(library);
  for (const file of ["host/host.sh", "host/google.py", "host/follow-config", "cache-host/build-cache-keys"]) {
    symlinkSync(join(cloudInit, file), join(library, basename(file)));
  }
  return library;
}
