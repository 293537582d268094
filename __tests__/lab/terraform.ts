import { spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { run } from "./commands";
import type { AppSettings } from "./app";
import { program } from "./programs";
import { CACHE, GOOGLE_PROXY_PORT, LOGS, REPOSITORY, STATE } from "./settings";

export interface Variables {
  readonly [name: string]: string | number | boolean | { readonly [key: string]: string };
}

const CDKTF = join(CACHE, "cdktf-cli");
const STACK = "gitlab-runner";

/** A deployment of the stack: by the CDK for Terraform or, once that has synthesized it, by Terraform alone. */
export class Deployment {
  readonly folder: string;
  private readonly output: string;

  constructor(
    private readonly name: string,
    private app: AppSettings,
    private variables: Variables,
    private readonly environment: TerraformEnvironment,
  ) {
    this.output = join(STATE, "deployments", name);
    this.folder = join(this.output, "stacks", STACK);
    mkdirSync(this.output, { recursive: true });
  }

  /** Has to run where the package registry of npm is in reach. */
  static async prepare(): Promise<void> {
    if (!existsSync(join(CDKTF, "node_modules/.bin/cdktf"))) {
      mkdirSync(CDKTF, { recursive: true });
      await run("npm", ["install", "--no-audit", "--no-fund", "--prefix", CDKTF, "cdktf-cli@0.21.0"]);
    }
  }

  set(variables: Variables): void {
    this.variables = { ...this.variables, ...variables };
  }

  /** The program itself changes: it has to be synthesized again. */
  async program(app: Partial<AppSettings>): Promise<void> {
    this.app = { ...this.app, ...app };
    await this.synthesize();
  }

  get state(): string {
    return readFileSync(join(this.folder, "terraform.tfstate"), "utf8");
  }

  get synthesized(): string {
    return readFileSync(join(this.folder, "cdk.tf.json"), "utf8");
  }

  /** `cdktf deploy`. */
  async deployWithCdktf(): Promise<string> {
    const app = `${process.execPath} --import tsx __tests__/lab/app.ts`;
    const options = ["--app", app, "--output", this.output, "--auto-approve", "--skip-provider-lock"];
    const cdktf = join(CDKTF, "node_modules/.bin/cdktf");
    return this.logged([cdktf, "deploy", STACK, ...options, "--var-file", this.variableFile()], REPOSITORY);
  }

  /** What `cdktf synth` does, and `terraform init`. */
  async synthesize(): Promise<void> {
    const env = { CDKTF_OUTDIR: this.output };
    await this.logged([process.execPath, "--import", "tsx", "__tests__/lab/app.ts"], REPOSITORY, env);
    await this.terraform("init", "-input=false");
  }

  apply(): Promise<string> {
    return this.terraform("apply", "-input=false", "-auto-approve", `-var-file=${this.variableFile()}`);
  }

  /** Makes the resource of that construct anew. */
  async replace(type: string, construct: string): Promise<void> {
    const resources = (await this.terraform("state", "list")).split("\n");
    const address = resources.find((address) => address.startsWith(`${type}.${construct}_`))!;
    await this.terraform(
      "apply",
      "-input=false",
      "-auto-approve",
      `-var-file=${this.variableFile()}`,
      `-replace=${address}`,
    );
  }

  destroy(): Promise<string> {
    return this.terraform("destroy", "-input=false", "-auto-approve", `-var-file=${this.variableFile()}`);
  }

  plan(): Promise<string> {
    return this.terraform("plan", "-input=false", `-var-file=${this.variableFile()}`, `-out=${this.planFile}`);
  }

  /** The plan that was made last, as JSON. */
  showPlan(): Promise<string> {
    return this.terraform("show", "-json", this.planFile);
  }

  async outputs(): Promise<{ readonly [name: string]: { readonly value: string } }> {
    return JSON.parse(await this.terraform("output", "-json")) as { [name: string]: { value: string } };
  }

  terraform(...args: string[]): Promise<string> {
    return this.logged([program("terraform"), ...args], this.folder, { TF_CLI_ARGS: "-no-color" });
  }

  private get planFile(): string {
    return join(this.output, "plan");
  }

  private variableFile(): string {
    const file = join(this.output, "lab.tfvars.json");
    writeFileSync(file, JSON.stringify(this.variables));
    return file;
  }

  private async logged(command: readonly string[], cwd: string, extra: NodeJS.ProcessEnv = {}): Promise<string> {
    const log = openSync(join(LOGS, `terraform-${this.name}.log`), "a");
    const env = { ...this.environment.variables, LAB_APP: JSON.stringify(this.app), ...extra };
    const child = spawn(command[0], command.slice(1), { cwd, env, stdio: ["ignore", "pipe", log] });
    let said = "";
    child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      writeFileSync(log, text);
    });
    const status = await new Promise<number | null>((resolve, reject) => {
      child.once("error", reject).once("close", resolve);
    });
    closeSync(log);
    if (status !== 0) {
      const all = readFileSync(join(LOGS, `terraform-${this.name}.log`), "utf8");
      throw new Error(`${command.slice(0, 3).join(" ")} ended with status ${status}:\n${all.trimEnd().slice(-2500)}`);
    }
    return said;
  }
}

/** What Terraform has in its environment, so that it reaches the lab's Google as it would reach Google. */
export class TerraformEnvironment {
  readonly variables: NodeJS.ProcessEnv;

  constructor(token: string, certificateFile: string) {
    // In this folder is the lab's gcloud.
    this.variables = {
      ...process.env,
      PATH: `${__dirname}${delimiter}${process.env["PATH"]}`,
      GOOGLE_OAUTH_ACCESS_TOKEN: token,
      HTTPS_PROXY: `http://127.0.0.1:${GOOGLE_PROXY_PORT}`,
      SSL_CERT_FILE: certificateFile,
      SSL_CERT_DIR: undefined,
      CURL_CA_BUNDLE: certificateFile,
      TERRAFORM_BINARY_NAME: program("terraform"),
      CHECKPOINT_DISABLE: "1",
      CI: "true",
    };
  }
}
