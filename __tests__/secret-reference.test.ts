import { checkSecretReference, SecretReference, secretUri } from "../constructs/secret-reference";
import { resolved, variable } from "./synthesized";

const reference = { project: "my-project", secretId: "runner-token" };

describe("checkSecretReference", () => {
  test.each([{}, { version: "latest" }, { version: "3" }])("takes a reference with %j", (version) =>
    checkSecretReference("token", { ...reference, ...version }),
  );

  test.each([
    ["glrt-verysecret", "a string"],
    [undefined, "a undefined"],
    [null, "null"],
    [{ project: "my-project" }, "a object"],
  ])("a token given as plain text, or anything else that is no reference: %j", (value, got) => {
    expect(() => checkSecretReference("token", value as unknown as SecretReference)).toThrow(
      new Error(
        `'token' must be a reference to a Secret Manager secret such as { project: "my-project", secretId: "runner-token" }, ` +
          `got ${got} (not shown); store the value with \`gcloud secrets create\``,
      ),
    );
  });

  test.each(["glrt-verysecret", "glrtr-verysecret", "GR1348941verysecret", "glpat-verysecret"])(
    "a token in the place of the secret's id: %s",
    (secretId) => {
      expect(() => checkSecretReference("token", { ...reference, secretId })).toThrow(
        new Error(
          "'token.secretId' must be the id of a Secret Manager secret, got a token (not shown); store it with `gcloud secrets create` and revoke this one",
        ),
      );
    },
  );

  test.each([
    [
      "project",
      "My Project",
      "be a Google Cloud project id (6 to 30 of a-z, 0-9 and -, beginning with a letter), not its name or number",
    ],
    ["secretId", "projects/p/secrets/s", "be the id of a Secret Manager secret (1 to 255 of letters, digits, _ and -)"],
    ["version", "newest", "be a version of the secret: latest, or its number"],
  ])("%s against the rules", (property, value, must) => {
    expect(() => checkSecretReference("token", { ...reference, [property]: value })).toThrow(
      `'token.${property}' must ${must}`,
    );
    expect(() => checkSecretReference("token", { ...reference, [property]: value })).toThrow(`got "${value}"`);
  });

  test("does not judge variables", () => {
    resolved((stack) => {
      const value = variable(stack).stringValue;
      checkSecretReference("token", { project: value, secretId: value, version: value });
      return "";
    });
  });
});

describe("secretUri", () => {
  test("names the version, the newest when none is given", () => {
    expect(secretUri(reference)).toBe("secret://projects/my-project/secrets/runner-token/versions/latest");
    expect(secretUri({ ...reference, version: "3" })).toBe(
      "secret://projects/my-project/secrets/runner-token/versions/3",
    );
  });

  test("names a member of the payload", () => {
    expect(secretUri(reference, "access_key")).toBe(
      "secret://projects/my-project/secrets/runner-token/versions/latest#access_key",
    );
  });
});
