import { PROJECT, PROJECT_NUMBER } from "../settings";
import { type Api, ApiError, type Call, notInTheLab } from "./api";
import { Iam, OPERATOR } from "./iam";

interface Secret {
  readonly labels?: { readonly [key: string]: string };
  readonly [field: string]: unknown;
  /** Payloads, base64, the oldest first. */
  readonly versions: string[];
}

/** Secret Manager, with automatic replication. */
export class SecretManager implements Api {
  private readonly secrets = new Map<string, Secret>();
  private readonly log: string[] = [];
  /** Id of a secret that nobody may read for the time being. */
  refused?: string;

  constructor(private readonly iam: Iam) {}

  /** As an operator does it with gcloud. */
  create(secretId: string): void {
    this.secrets.set(secretId, { replication: { automatic: {} }, versions: [] });
  }

  addVersion(secretId: string, payload: string): void {
    this.find(secretId).versions.push(Buffer.from(payload).toString("base64"));
  }

  delete(secretId: string): void {
    this.secrets.delete(secretId);
    this.iam.forgetPolicy(`projects/${PROJECT}/secrets/${secretId}`);
  }

  /** Ids of all secrets. */
  get ids(): string[] {
    return [...this.secrets.keys()];
  }

  /** Payloads of all versions of a secret. */
  payloads(secretId: string): string[] {
    return this.find(secretId).versions.map((data) => Buffer.from(data, "base64").toString());
  }

  /** Who asked for which payload, and the answer: `serviceAccount:… read ID` or `… may not read ID`. */
  get accesses(): readonly string[] {
    return this.log;
  }

  answer(call: Call): unknown {
    const { method, path, body, caller, query } = call;
    const match = /^v1\/projects\/[^/]+\/secrets(?:\/([^/:]+))?(?:\/versions\/([^/:]+))?(?::(\w+))?$/.exec(path);
    if (!match) {
      throw notInTheLab(call);
    }
    const [, id, version, verb] = match;
    const permit = (permission: string) =>
      this.iam.require(caller, permission, id && `projects/${PROJECT}/secrets/${id}`);
    if (id === undefined) {
      permit("secretmanager.secrets.create");
      const secretId = query.get("secretId")!;
      if (this.secrets.has(secretId)) {
        throw new ApiError(409, `Secret [projects/${PROJECT_NUMBER}/secrets/${secretId}] already exists.`);
      }
      this.secrets.set(secretId, { ...(body as object), versions: [] });
      return this.shown(secretId);
    }
    if (version !== undefined && verb === "access") {
      return this.access(caller, id, version);
    }
    if (version !== undefined) {
      throw notInTheLab(call);
    }
    switch (verb) {
      case "addVersion": {
        permit("secretmanager.versions.add");
        const { versions } = this.find(id);
        versions.push((body as { payload: { data: string } }).payload.data);
        return { name: `${nameOf(id)}/versions/${versions.length}`, state: "ENABLED" };
      }
      case "getIamPolicy":
      case "setIamPolicy":
        permit(`secretmanager.secrets.${verb}`);
        this.find(id);
        return this.iam.policy(`projects/${PROJECT}/secrets/${id}`, verb, body);
    }
    switch (method) {
      case "GET":
        permit("secretmanager.secrets.get");
        return this.shown(id);
      case "PATCH":
        permit("secretmanager.secrets.update");
        this.secrets.set(id, { ...this.find(id), ...(body as object) });
        return this.shown(id);
      case "DELETE":
        permit("secretmanager.secrets.delete");
        this.find(id);
        this.delete(id);
        return {};
    }
    throw notInTheLab(call);
  }

  private access(caller: string, id: string, version: string): object {
    try {
      this.iam.require(
        id === this.refused ? "nobody" : caller,
        "secretmanager.versions.access",
        `projects/${PROJECT}/secrets/${id}`,
      );
    } catch (error) {
      this.log.push(`${caller} may not read ${id}`);
      throw error;
    }
    const versions = this.secrets.get(id)?.versions ?? [];
    const number = version === "latest" ? versions.length : Number(version);
    const data = versions[number - 1];
    if (data === undefined) {
      throw new ApiError(404, `Secret [${nameOf(id)}] not found or has no versions.`);
    }
    if (caller !== OPERATOR) {
      this.log.push(`${caller} read ${id}`);
    }
    return { name: `${nameOf(id)}/versions/${number}`, payload: { data } };
  }

  private find(id: string): Secret {
    const secret = this.secrets.get(id);
    if (!secret) {
      throw new ApiError(404, `Secret [${nameOf(id)}] not found.`);
    }
    return secret;
  }

  private shown(id: string): object {
    const { versions: _, ...secret } = this.find(id);
    return { ...secret, name: nameOf(id), etag: '"1"', createTime: "2026-01-01T00:00:00Z" };
  }
}

const nameOf = (id: string) => `projects/${PROJECT_NUMBER}/secrets/${id}`;
