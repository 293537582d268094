export interface Result {
  readonly title: string;
  readonly figure: string;
  readonly seconds: number;
  readonly problem?: string;
}

/** What was checked, and what came out. */
export class Report {
  readonly results: Result[] = [];
  private readonly start = Date.now();

  get failed(): number {
    return this.results.filter(({ problem }) => problem !== undefined).length;
  }

  /** One assertion: what it returns is its figure, an error is its failure. Goes on in any case; true if it passed. */
  async check(title: string, body: () => Promise<string | void> | string | void): Promise<boolean> {
    const start = Date.now();
    let figure = "";
    let problem: string | undefined;
    try {
      figure = (await body()) ?? "";
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error);
    }
    const seconds = (Date.now() - start) / 1000;
    this.results.push({ title, figure, seconds, problem });
    this.say(`${problem === undefined ? "ok  " : "FAIL"} ${title}${figure && `: ${figure}`} (${seconds.toFixed(1)} s)`);
    if (problem !== undefined) {
      console.log(problem.split("\n").slice(0, 30).join("\n").replace(/^/gm, "       "));
    }
    return problem === undefined;
  }

  /** A line of progress. */
  say(text: string): void {
    console.log(`${((Date.now() - this.start) / 1000).toFixed(1).padStart(6)} ${text}`);
  }

  /** All once more, failures with their first line: of a long log often only the end is at hand. */
  print(): void {
    console.log();
    for (const { title, figure, seconds, problem } of this.results) {
      const verdict = problem === undefined ? "ok  " : "FAIL";
      const remark = problem === undefined ? figure : problem.split("\n")[0];
      console.log(`${verdict} ${seconds.toFixed(1).padStart(6)} s  ${title}${remark && `: ${remark}`}`);
    }
    const total = ((Date.now() - this.start) / 1000).toFixed(0);
    console.log(`\nAll of it took ${total} s.`);
    console.log(`${this.results.length - this.failed} passed, ${this.failed} failed`);
  }
}
