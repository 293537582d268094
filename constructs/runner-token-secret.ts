import { SecretManagerSecret } from "@cdktf/provider-google/lib/secret-manager-secret";
import { SecretManagerSecretVersion } from "@cdktf/provider-google/lib/secret-manager-secret-version";
import { Token } from "cdktf";
import { Construct } from "constructs";
import { checkLabels, Labels } from "./labels";
import { check, integer, projectId, secretId } from "./rules";
import { SecretReference } from "./secret-reference";

export interface RunnerTokenSecretProps {
  /** Project id. */
  readonly project: string;
  /** Id of the secret. */
  readonly secretId: string;
  /**
   * The runner authentication token, `glrt-…`: the value of a Terraform variable that is `sensitive` and `ephemeral`, so that
   * it is neither in the plan nor in the state.
   */
  readonly token: string;
  /**
   * Raise it by one with each new token: Terraform does not keep the old one to compare.
   *
   * @default 1
   */
  readonly tokenVersion?: number;
  /**
   * Labels for the secret.
   *
   * @default - none
   */
  readonly labels?: Labels;
}

/** A secret for a runner's token that Terraform writes and forgets: for those who do not make it with `gcloud`. */
export class RunnerTokenSecret extends Construct implements SecretReference {
  public readonly project: string;
  public readonly secretId: string;
  public readonly version = "latest";

  constructor(scope: Construct, id: string, props: RunnerTokenSecretProps) {
    super(scope, id);
    if (!Token.isUnresolved(props.token)) {
      throw new Error(
        "'token' must be the value of an ephemeral Terraform variable, got plain text (not shown): it would be in the synthesized JSON",
      );
    }
    check(projectId, "project", props.project);
    check(secretId, "secretId", props.secretId);
    check(integer(1, undefined, "one more with each new token"), "tokenVersion", props.tokenVersion);
    checkLabels(props.labels);
    const secret = new SecretManagerSecret(this, "Resource", {
      project: props.project,
      secretId: props.secretId,
      replication: { auto: {} },
      labels: props.labels,
    });
    new SecretManagerSecretVersion(this, "Version", {
      secret: secret.id,
      secretDataWo: props.token,
      secretDataWoVersion: props.tokenVersion ?? 1,
    });
    this.project = props.project;
    this.secretId = secret.secretId;
  }
}
