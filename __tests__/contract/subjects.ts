import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { outputOf, project } from "./programs";

/** An app of this project whose synthesized stack is tested. */
export interface Subject {
  readonly name: string;
  /** Its program, below the checkout. */
  readonly main: string;
}

/** The ready stack, and every example. */
export const SUBJECTS: Subject[] = [
  { name: "the ready stack", main: "main.ts" },
  ...readdirSync(join(project, "examples"), { withFileTypes: true })
    .map(({ name }) => ({ name: `examples/${name}`, main: `examples/${name}/main.ts` }))
    .filter(({ main }) => existsSync(join(project, main))),
];

export interface Variable {
  readonly default?: unknown;
  readonly description?: string;
}

/** A configuration in Terraform's JSON syntax. */
export interface Configuration {
  readonly variable?: { readonly [name: string]: Variable };
  readonly resource: {
    readonly [type: string]: { readonly [name: string]: { readonly [attribute: string]: unknown } };
  };
  readonly output?: { readonly [name: string]: { readonly value: unknown } };
}

export type Values = { readonly [variable: string]: unknown };

/** Values for variables without a default; an example with others has a terraform.tfvars.json. */
const VALUES: Values = {
  project: "my-project",
  gitlab_url: "https://gitlab.example.com",
  runner_token_secret: "gitlab-runner-token",
};

/** Synthesizes an app as `cdktf` would, into the folder, and returns the text of its one stack's JSON. */
export async function synthesize(
  main: string,
  folder: string,
  { cwd = project, env = {} }: { cwd?: string; env?: { [name: string]: string | undefined } } = {},
): Promise<string> {
  mkdirSync(folder, { recursive: true });
  await outputOf(["node", "--import", "tsx", main], { cwd, env: { ...env, CDKTF_OUTDIR: folder } });
  const stacks = readdirSync(join(folder, "stacks"));
  if (stacks.length !== 1) {
    throw new Error(`${main} has not one stack but ${stacks.length}: ${stacks.join(", ")}`);
  }
  return readFileSync(join(folder, "stacks", stacks[0], "cdk.tf.json"), "utf8");
}

/** What a user would have to give for this app, and no more. */
export function valuesFor({ main }: Subject, configuration: Configuration): Values {
  const file = join(project, dirname(main), "terraform.tfvars.json");
  const own = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Values) : {};
  const needed = Object.entries(configuration.variable ?? {}).filter(([, variable]) => variable.default === undefined);
  return Object.fromEntries(
    needed.map(([name]) => {
      const value = own[name] ?? VALUES[name];
      if (value === undefined) {
        throw new Error(`There is no value for the variable ${name} of ${main}: put it into ${file}`);
      }
      return [name, value];
    }),
  );
}
