import { createHash, randomBytes } from "node:crypto";
import { PROJECT, PROJECT_NUMBER } from "../settings";
import { type Api, ApiError, type Call, notInTheLab } from "./api";

interface Policy {
  readonly version?: number;
  readonly etag: string;
  readonly bindings?: readonly { readonly role: string; readonly members: readonly string[] }[];
}

interface ServiceAccount {
  readonly name: string;
  readonly email: string;
  readonly [field: string]: unknown;
}

interface Role {
  readonly name: string;
  readonly includedPermissions?: readonly string[];
  deleted?: boolean;
  readonly [field: string]: unknown;
}

/** Who runs Terraform: the project's owner. */
export const OPERATOR = "user:operator@lab.internal";

/** What those of Google's own roles that the stack grants are made of. */
const PREDEFINED_ROLES: { readonly [role: string]: readonly string[] } = {
  "roles/secretmanager.secretAccessor": ["secretmanager.versions.access"],
  "roles/secretmanager.secretVersionAdder": ["secretmanager.versions.add"],
  "roles/logging.logWriter": ["logging.logEntries.create", "logging.logEntries.route"],
  "roles/monitoring.metricWriter": [
    "monitoring.metricDescriptors.create",
    "monitoring.metricDescriptors.get",
    "monitoring.metricDescriptors.list",
    "monitoring.monitoredResourceDescriptors.get",
    "monitoring.monitoredResourceDescriptors.list",
    "monitoring.timeSeries.create",
  ],
  "roles/iam.serviceAccountUser": ["iam.serviceAccounts.actAs", "iam.serviceAccounts.get", "iam.serviceAccounts.list"],
};

const unique = () => String(10n ** 20n + BigInt(`0x${randomBytes(7).toString("hex")}`));
const etagOf = (value: unknown) => createHash("sha256").update(JSON.stringify(value)).digest("base64").slice(0, 12);

/** IAM and, for the project's policy, Resource Manager: service accounts, custom roles, policies, and who may do what. */
export class Iam implements Api {
  readonly serviceAccounts = new Map<string, ServiceAccount>();
  readonly roles = new Map<string, Role>();
  private readonly policies = new Map<string, Policy>();
  private readonly tokens = new Map<string, string>();

  /** A new access token for somebody. */
  tokenFor(member: string): string {
    const token = `ya29.${randomBytes(24).toString("base64url")}`;
    this.tokens.set(token, member);
    return token;
  }

  /** All tokens that were given out. */
  get issuedTokens(): string[] {
    return [...this.tokens.keys()];
  }

  callerOf(authorization: string | undefined): string {
    const caller = this.tokens.get(authorization?.replace(/^Bearer /, "") ?? "");
    if (caller === undefined) {
      throw new ApiError(401, "Request had invalid authentication credentials. Expected OAuth 2 access token.");
    }
    return caller;
  }

  /** Refuses unless a policy, of the project or of the resource itself, gives the caller that permission. */
  require(caller: string, permission: string, resource = `projects/${PROJECT}`): void {
    const bindings = [`projects/${PROJECT}`, resource].flatMap((name) => this.policies.get(name)?.bindings ?? []);
    const roles = bindings.filter(({ members }) => members.includes(caller)).map(({ role }) => role);
    if (caller !== OPERATOR && !roles.some((role) => this.permissionsOf(role).includes(permission))) {
      throw new ApiError(403, `Required '${permission}' permission for '${resource}' (or it may not exist).`);
    }
  }

  private permissionsOf(name: string): readonly string[] {
    const role = this.roles.get(name);
    return role?.deleted ? [] : (role?.includedPermissions ?? PREDEFINED_ROLES[name] ?? []);
  }

  requireServiceAccount(email: string): void {
    if (!this.serviceAccounts.has(email)) {
      throw new ApiError(400, `The resource '${email}' of type 'serviceAccount' was not found.`);
    }
  }

  /** `:getIamPolicy` and `:setIamPolicy` of any resource, for the API that has it. */
  policy(resource: string, verb: string, body: unknown): Policy {
    const old = this.policies.get(resource) ?? { version: 1, etag: "ACAB" };
    if (verb === "getIamPolicy") {
      return old;
    }
    const { policy } = body as { policy: Policy };
    if (policy.etag && policy.etag !== old.etag) {
      throw new ApiError(
        409,
        "There were concurrent policy changes. Please retry the whole read-modify-write.",
        "aborted",
      );
    }
    for (const { role, members } of policy.bindings ?? []) {
      const custom = this.roles.get(role);
      if (!(role in PREDEFINED_ROLES) && (!custom || custom.deleted)) {
        throw new ApiError(400, `Role ${role} is not supported for this resource.`);
      }
      members
        .filter((member) => member.startsWith("serviceAccount:"))
        .forEach((member) => this.requireServiceAccount(member.replace("serviceAccount:", "")));
    }
    const next = { ...policy, etag: etagOf([policy.bindings, old.etag]) };
    this.policies.set(resource, next);
    return next;
  }

  forgetPolicy(resource: string): void {
    this.policies.delete(resource);
  }

  answer(call: Call): unknown {
    const { path, method, body, caller } = call;
    if (caller !== OPERATOR) {
      throw new ApiError(403, `Permission denied on ${path}`);
    }
    const policyOf = /^v[13]\/(projects\/[^/:]+(?:\/serviceAccounts\/[^/:]+)?):(getIamPolicy|setIamPolicy)$/.exec(path);
    if (policyOf) {
      return this.policy(policyOf[1], policyOf[2], body);
    }
    if (/^v1\/projects\/[^/]+$/.test(path) && method === "GET") {
      return { projectId: PROJECT, projectNumber: PROJECT_NUMBER, lifecycleState: "ACTIVE", name: PROJECT };
    }
    const collection = /^v1\/projects\/([^/]+)\/(serviceAccounts|roles)(?:\/([^/]+))?$/.exec(path);
    if (collection?.[2] === "serviceAccounts") {
      return collection[3] === undefined ? this.createServiceAccount(call) : this.serviceAccount(call, collection[3]);
    }
    if (collection?.[2] === "roles") {
      return collection[3] === undefined ? this.createRole(call) : this.role(call, path.slice(3));
    }
    throw notInTheLab(call);
  }

  private createServiceAccount({ body }: Call): ServiceAccount {
    const { accountId, serviceAccount } = body as { accountId: string; serviceAccount?: object };
    if (!/^[a-z]([-a-z0-9]{4,28}[a-z0-9])$/.test(accountId)) {
      throw new ApiError(400, `Invalid service account ID "${accountId}": 6 to 30 of a-z, 0-9 and -.`);
    }
    const email = `${accountId}@${PROJECT}.iam.gserviceaccount.com`;
    if (this.serviceAccounts.has(email)) {
      throw new ApiError(409, `Service account ${accountId} already exists within project projects/${PROJECT}.`);
    }
    const name = `projects/${PROJECT}/serviceAccounts/${email}`;
    const account = { ...serviceAccount, name, email, projectId: PROJECT, uniqueId: unique(), etag: "MDEwMjE5MjA=" };
    this.serviceAccounts.set(email, account);
    return account;
  }

  private serviceAccount(call: Call, email: string): unknown {
    const account = this.serviceAccounts.get(email);
    if (!account) {
      throw new ApiError(404, `Unknown service account ${email}`);
    }
    switch (call.method) {
      case "GET":
        return account;
      case "DELETE":
        this.serviceAccounts.delete(email);
        this.policies.delete(account.name);
        return {};
    }
    throw notInTheLab(call);
  }

  private createRole({ body }: Call): Role {
    const { roleId, role } = body as { roleId: string; role: Omit<Role, "name"> };
    const name = `projects/${PROJECT}/roles/${roleId}`;
    // A deleted role keeps its id for weeks.
    if (this.roles.has(name)) {
      throw new ApiError(409, `A role named ${roleId} in projects/${PROJECT} already exists.`);
    }
    const made = { stage: "GA", ...role, name, etag: etagOf(role) };
    this.roles.set(name, made);
    return made;
  }

  private role(call: Call, name: string): unknown {
    const role = this.roles.get(name);
    if (!role) {
      throw new ApiError(404, `The role named ${name} was not found.`);
    }
    switch (call.method) {
      case "GET":
        return role;
      case "PATCH": {
        const next = { ...role, ...(call.body as object), name, etag: etagOf([role.etag, call.body]) };
        this.roles.set(name, next);
        return next;
      }
      case "DELETE":
        role.deleted = true;
        return role;
    }
    throw notInTheLab(call);
  }
}
