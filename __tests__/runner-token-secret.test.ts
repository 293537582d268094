import { TerraformStack, Token } from "cdktf";
import { RunnerTokenSecret, RunnerTokenSecretProps } from "../constructs/runner-token-secret";
import { secretUri } from "../constructs/secret-reference";
import "./readable-snapshots";
import { resolved, synthesized, uniqueNames, variable } from "./synthesized";

const create = (stack: TerraformStack, props: Partial<RunnerTokenSecretProps> = {}, id = "Token") =>
  new RunnerTokenSecret(stack, id, {
    project: "my-project",
    secretId: "runner-token",
    token: variable(stack, "token").stringValue,
    ...props,
  });
const secret = (props: Partial<RunnerTokenSecretProps> = {}) =>
  synthesized((stack) => {
    create(stack, props);
  });

test("default secret", () => {
  expect(secret().resources).toMatchSnapshot();
});

test("the token is written and forgotten: it is in no attribute that Terraform keeps", () => {
  const version = secret().one("google_secret_manager_secret_version");
  expect(version).toMatchObject({ secret_data_wo: "${var.token}", secret_data_wo_version: 1 });
  expect(version).not.toHaveProperty("secret_data");
});

test("a new token has a new version number", () => {
  expect(secret({ tokenVersion: 2 }).one("google_secret_manager_secret_version")).toMatchObject({
    secret_data_wo_version: 2,
  });
});

test("labels are the secret's", () => {
  expect(secret({ labels: { team: "ci" } }).one("google_secret_manager_secret")).toMatchObject({
    labels: { team: "ci" },
  });
});

test("is the reference that a registration takes, always to the newest version", () => {
  expect(resolved((stack) => secretUri(create(stack)))).toMatch(
    /^secret:\/\/projects\/my-project\/secrets\/\$\{google_secret_manager_secret\.Token_\w+\.secret_id\}\/versions\/latest$/,
  );
});

describe("against the rules", () => {
  test("a token given as plain text is not repeated", () => {
    const plain = () => secret({ token: "glrt-verysecret" });
    expect(plain).toThrow(
      new Error(
        "'token' must be the value of an ephemeral Terraform variable, got plain text (not shown): it would be in the synthesized JSON",
      ),
    );
  });

  test("a token in the place of the secret's id is not repeated", () => {
    const plain = () => secret({ secretId: "glrt-verysecret" });
    expect(plain).toThrow(/^'secretId' must .*store that with `gcloud secrets create`/);
    expect(plain).not.toThrow("verysecret");
  });

  test.each([
    [
      "project",
      "P",
      "be a Google Cloud project id (6 to 30 of a-z, 0-9 and -, beginning with a letter), not its name or number",
    ],
    ["tokenVersion", 0, "be at least 1 (one more with each new token)"],
  ])("%s: %j", (property, value, must) => {
    expect(() => secret({ [property]: value })).toThrow(
      new Error(`'${property}' must ${must}, got ${JSON.stringify(value)}`),
    );
  });

  test("secretId", () => {
    expect(() => secret({ secretId: "projects/p/secrets/s" })).toThrow(
      /^'secretId' must be the id of a Secret Manager secret \(1 to 255 of letters, digits, _ and -\)/,
    );
  });

  test("labels: a bad key", () => {
    expect(() => secret({ labels: { Team: "ci" } })).toThrow(
      new Error(`'labels' must be a label key (1 to 63 of a-z, 0-9, _ and -, beginning with a letter), got "Team"`),
    );
  });
});

test("Terraform variables are taken unjudged", () => {
  const stack = synthesized((stack) => {
    const { stringValue, numberValue } = variable(stack);
    create(stack, {
      project: stringValue,
      secretId: stringValue,
      tokenVersion: numberValue,
      labels: Token.asStringMap(variable(stack).value),
    });
  });
  expect(stack.one("google_secret_manager_secret")).toMatchObject({
    project: "${var.tuned}",
    secret_id: "${var.tuned}",
    labels: "${var.tuned}",
  });
});

test("two in one stack have the ids that they are given", () => {
  const names = uniqueNames(
    synthesized((stack) => {
      create(stack, { secretId: "one" }, "One");
      create(stack, { secretId: "two" }, "Two");
    }),
  );
  expect(names).toEqual(["google_secret_manager_secret one", "google_secret_manager_secret two"]);
});
