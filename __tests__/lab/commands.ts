import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly input?: string;
  readonly timeoutSeconds?: number;
}

/** What a program writes to its standard output. Fails with what it said, if its exit status is not 0. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { input, timeoutSeconds = 600, ...rest } = options;
  return new Promise((resolve, reject) => {
    const child = execFile(
      program,
      args,
      { ...rest, maxBuffer: 1 << 28, timeout: timeoutSeconds * 1000 },
      (error, stdout, stderr) => {
        if (error) {
          const said = `${stdout}\n${stderr}`.trim().slice(-2000);
          reject(new Error(`${[program, ...args].join(" ").slice(0, 300)}: ${said || error.message}`));
        } else {
          resolve(stdout);
        }
      },
    );
    child.stdin?.on("error", () => {}).end(input ?? "");
  });
}

/** Asks again and again until the answer is neither undefined nor false nor an error; fails with the last error. */
export async function until<T>(
  what: string,
  seconds: number,
  probe: () => T | undefined | false | Promise<T | undefined | false>,
  pauseSeconds = 0.25,
): Promise<T> {
  const end = Date.now() + seconds * 1000;
  for (let problem = ""; ;) {
    try {
      const answer = await probe();
      if (answer !== undefined && answer !== false) {
        return answer;
      }
    } catch (error) {
      problem = `: ${(error as Error).message}`;
    }
    if (Date.now() > end) {
      throw new Error(`${what}: not within ${seconds} s${problem}`);
    }
    await sleep(pauseSeconds * 1000);
  }
}
