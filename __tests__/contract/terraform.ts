import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { available, Ended, outputOf, programAvailable, run } from "./programs";
import { Configuration, Values } from "./subjects";

/** What a user's environment says to Terraform would make another test of it; the CLI configuration stays. */
const ENVIRONMENT = {
  ...Object.fromEntries(
    Object.keys(process.env)
      .filter((name) => /^(TF_VAR_|TF_CLI_ARGS|TF_WORKSPACE|TF_DATA_DIR|GOOGLE_|CLOUDSDK_)/.test(name))
      .map((name) => [name, undefined]),
  ),
  TF_IN_AUTOMATION: "1",
  TF_INPUT: "0",
  CHECKPOINT_DISABLE: "1",
};

export interface Diagnostic {
  readonly severity: "error" | "warning";
  readonly summary: string;
  readonly detail: string;
}

export interface Verdict {
  readonly errors: string[];
  readonly warnings: string[];
}

export interface ResourceChange {
  readonly address: string;
  readonly type: string;
  readonly change: { readonly actions: string[] };
}

/** A folder with one configuration, and Terraform, or a program that is called like it, in it. */
export class Terraform {
  private readonly env: { [name: string]: string | undefined };

  constructor(
    private readonly folder: string,
    private readonly program = "terraform",
  ) {
    // gcloud, where it is, must not give a token to what waits for a host.
    this.env = { ...ENVIRONMENT, CLOUDSDK_CONFIG: join(folder, "no-gcloud") };
  }

  /** Writes the configuration. Without its backend: for a stack without any, cdktf writes one in the checkout. */
  public write(configuration: object): void {
    const { terraform, ...rest } = configuration as { terraform?: object };
    const settings = { ...terraform, backend: undefined };
    mkdirSync(this.folder, { recursive: true });
    writeFileSync(join(this.folder, "cdk.tf.json"), JSON.stringify({ terraform: settings, ...rest }, null, 1));
  }

  public values(values: Values): void {
    mkdirSync(this.folder, { recursive: true });
    writeFileSync(join(this.folder, "terraform.tfvars.json"), JSON.stringify(values));
  }

  public init(): Promise<string> {
    return this.outputOf("init", "-no-color");
  }

  public async validate(): Promise<Verdict> {
    const { stdout } = await this.run("validate", "-json");
    return verdict((JSON.parse(stdout) as { diagnostics: Diagnostic[] }).diagnostics);
  }

  public async plan(...options: string[]): Promise<Verdict> {
    const { stdout } = await this.run("plan", "-json", ...options);
    const events = stdout
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as { diagnostic?: Diagnostic });
    return verdict(events.flatMap(({ diagnostic }) => diagnostic ?? []));
  }

  public async apply(): Promise<void> {
    await this.outputOf("apply", "-auto-approve", "-no-color");
  }

  public async outputs(): Promise<{ [name: string]: { value: unknown } }> {
    return JSON.parse(await this.outputOf("output", "-json")) as { [name: string]: { value: unknown } };
  }

  /** What a plan with these values would do, but for what stays as it is. */
  public async changes(values: Values): Promise<ResourceChange[]> {
    this.values(values);
    await this.outputOf("plan", "-no-color", "-out=plan");
    const plan = JSON.parse(await this.outputOf("show", "-json", "plan")) as { resource_changes?: ResourceChange[] };
    return (plan.resource_changes ?? []).filter(({ change }) => !["no-op", "read"].includes(change.actions.join()));
  }

  private run(...args: string[]): Promise<Ended> {
    return run([this.program, ...args], { cwd: this.folder, env: this.env });
  }

  private outputOf(...args: string[]): Promise<string> {
    return outputOf([this.program, ...args], { cwd: this.folder, env: this.env });
  }
}

/** Whether `terraform init` finds the providers with the CLI configuration of this environment. */
export function providersAvailable(program = "terraform"): boolean {
  return (
    programAvailable("terraform") &&
    available(
      worksOn({ resource: { google_compute_network: { probe: {} }, null_resource: { probe: {} } } }, [
        [program, "init"],
      ]),
      `${program} init finds no providers: neither their registry nor a mirror in TF_CLI_CONFIG_FILE can be reached`,
    )
  );
}

/** Whether `terraform apply` makes nothing: whoever takes this token is not Google. */
export function applyIsHarmless(): boolean {
  const configuration = {
    provider: { google: { project: "my-project", access_token: "not-a-token" } },
    resource: { google_compute_network: { probe: { name: "probe" } } },
  };
  return (
    providersAvailable() &&
    available(
      worksOn(configuration, [
        ["terraform", "init"],
        ["terraform", "apply", "-auto-approve"],
      ]),
      "terraform apply would make real resources: the providers of this environment are the real ones",
    )
  );
}

function worksOn(configuration: object, commands: string[][]): boolean {
  const cwd = mkdtempSync(join(tmpdir(), "gitlab-runner-gce-"));
  try {
    writeFileSync(join(cwd, "main.tf.json"), JSON.stringify(configuration));
    const env = { ...process.env, ...ENVIRONMENT } as NodeJS.ProcessEnv;
    return commands.every(
      ([command, ...args]) => spawnSync(command, args, { cwd, env, timeout: 120_000 }).status === 0,
    );
  } finally {
    rmSync(cwd, { recursive: true, force: true });
  }
}

function verdict(diagnostics: Diagnostic[]): Verdict {
  const of = (severity: string) =>
    diagnostics.filter((diagnostic) => diagnostic.severity === severity).map((d) => `${d.summary}: ${d.detail}`);
  return { errors: of("error"), warnings: of("warning") };
}

export function parse(json: string): Configuration {
  return JSON.parse(json) as Configuration;
}
