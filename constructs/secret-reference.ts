import { check, looksLikeToken, projectId, secretId, secretVersion } from "./rules";

/**
 * A secret in Secret Manager. Its value is read by the host that needs it, as its own service account: it is never in
 * Terraform's plan or state, in instance metadata or in user-data.
 */
export interface SecretReference {
  /** Project of the secret. */
  readonly project: string;
  /** Id of the secret: the last part of `projects/P/secrets/ID`. */
  readonly secretId: string;
  /**
   * Version: `latest` or a number. With `latest` a new version is live on the host within a minute.
   *
   * @default "latest"
   */
  readonly version?: string;
}

/** Throws unless the property is a reference. The error never repeats what might be a secret. */
export function checkSecretReference(property: string, reference: SecretReference): void {
  if (typeof reference !== "object" || reference === null || typeof reference.secretId !== "string") {
    throw new Error(
      `'${property}' must be a reference to a Secret Manager secret such as { project: "my-project", secretId: "runner-token" }, ` +
        `got ${reference === null ? "null" : `a ${typeof reference}`} (not shown); store the value with \`gcloud secrets create\``,
    );
  }
  if (looksLikeToken(reference.secretId)) {
    throw new Error(
      `'${property}.secretId' must be the id of a Secret Manager secret, got a token (not shown); store it with \`gcloud secrets create\` and revoke this one`,
    );
  }
  check(projectId, `${property}.project`, reference.project);
  check(secretId, `${property}.secretId`, reference.secretId);
  check(secretVersion, `${property}.version`, reference.version);
}

/** What stands in a file until a host puts the value there; with a field, that member of a payload that is a JSON object. */
export function secretUri(reference: SecretReference, field?: string): string {
  const uri = `secret://projects/${reference.project}/secrets/${reference.secretId}/versions/${reference.version ?? "latest"}`;
  return field === undefined ? uri : `${uri}#${field}`;
}
