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

  print(): void {
    const width = Math.max(...this.results.map(({ title }) => title.length));
    const figures = Math.max(...this.results.map(({ figure }) => figure.length));
    console.log();
    for (const { title, figure, seconds, problem } of this.results) {
      const verdict = problem === undefined ? "ok  " : "FAIL";
      console.log(`${verdict} ${title.padEnd(width)}  ${figure.padEnd(figures)}  ${seconds.toFixed(1).padStart(6)} s`);
    }
    const total = ((Date.now() - this.start) / 1000).toFixed(0);
    console.log(`\nAll of it took ${total} s.`);
    console.log(`${this.results.length - this.failed} passed, ${this.failed} failed`);
  }
}
