import { createHash } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A VM, as the Compute Engine API shows it. */
export interface FakeInstance {
  readonly zone: string;
  status: string;
  readonly creationTimestamp: string;
  readonly labels?: Record<string, string>;
  readonly networkInterfaces?: readonly { readonly networkIP?: string }[];
}

/**
 * Metadata server, Secret Manager, the guest attributes and VMs of the Compute Engine API, GitLab's runner API, and files to
 * download.
 */
export class FakeGoogle {
  readonly attributes = new Map<string, string>();
  /** Every value that was ever written to a guest attribute, in order: `status=ready`. */
  readonly published: string[] = [];
  readonly guestAttributes = new Map<string, string>();
  /** Secret (`projects/P/secrets/S`) → payloads of its versions, oldest first. */
  readonly secrets = new Map<string, string[]>();
  readonly accessed: string[] = [];
  /** Answers 403 so many times before it lets somebody at the secrets. */
  denials = 0;
  readonly refusedTokens = new Set<string>();
  readonly files = new Map<string, string | Buffer>();
  computeStatus = 200;
  /** Seconds that GitLab, and whatever else answers here, is ahead of this machine's clock. */
  ahead = 0;
  /** VMs by their names. */
  readonly instances = new Map<string, FakeInstance>();
  /** Names of those that somebody deleted, in order. */
  readonly deleted: string[] = [];
  /** Permissions that the caller lacks in Compute Engine, such as `compute.instances.list`. */
  readonly lacking = new Set<string>();
  /** Whether a list has everything in it, whatever it was asked for. */
  ignoresFilter = false;
  /** Names of VMs that are protected from deletion. */
  readonly undeletable = new Set<string>();
  /** Zones into which Compute Engine cannot look. */
  readonly unreachableZones: string[] = [];
  readonly token = "ya29.fake-access-token";
  readonly email = "runner@my-project.iam.gserviceaccount.com";

  private readonly changes = new EventEmitter().setMaxListeners(0);
  private readonly server = createServer((request, response) => void this.answer(request, response));

  async listen(): Promise<this> {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    return this;
  }

  close(): void {
    this.server.close();
    this.server.closeAllConnections();
  }

  get address(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  get environment(): Record<string, string> {
    return {
      GCE_METADATA_HOST: this.address,
      CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER: `http://${this.address}/`,
      CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE: `http://${this.address}/compute/v1/`,
    };
  }

  setAttribute(name: string, value: string): void {
    this.attributes.set(name, value);
    this.changes.emit("change");
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    const url = new URL(request.url ?? "/", "http://fake");
    const send = (status: number, content: unknown = "", headers: Record<string, string> = {}) => {
      response.writeHead(status, { Date: new Date(Date.now() + this.ahead * 1000).toUTCString(), ...headers });
      response.end(typeof content === "string" || Buffer.isBuffer(content) ? content : JSON.stringify(content));
    };
    const metadata = url.pathname.match(/^\/computeMetadata\/v1\/instance\/(.*)$/)?.[1];
    const compute = url.pathname.match(/^\/compute\/v1\/projects\/my-project\/((?:aggregated|zones)\/.*)$/)?.[1];
    const file = this.files.get(url.pathname);
    if (metadata !== undefined) await this.answerMetadata(request, url, metadata, body, send);
    else if (url.pathname.startsWith("/v1/")) this.answerSecretManager(request, url.pathname.slice(4), body, send);
    else if (url.pathname === "/computeMetadata/v1/project/project-id") send(200, "my-project");
    else if (compute !== undefined && !compute.endsWith("/getGuestAttributes"))
      this.answerVms(request, url, compute, send);
    else if (url.pathname.startsWith("/compute/v1/")) this.answerCompute(request, send);
    else if (url.pathname === "/api/v4/runners/verify") {
      const { token } = JSON.parse(body) as { token: string };
      if (this.refusedTokens.has(token)) send(403, { message: "403 Forbidden" });
      else send(200, { id: 1, token });
    } else if (file !== undefined) send(200, file);
    else send(404);
  }

  private async answerMetadata(
    request: IncomingMessage,
    url: URL,
    path: string,
    body: string,
    send: (status: number, content?: unknown, headers?: Record<string, string>) => void,
  ): Promise<void> {
    if (request.headers["metadata-flavor"] !== "Google") return send(403);
    const [kind, name, key] = path.split("/");
    if (kind === "guest-attributes" && request.method === "PUT") {
      if (name !== "gitlab-runner" || key === undefined) return send(400);
      this.guestAttributes.set(key, body);
      this.published.push(`${key}=${body}`);
      return send(200);
    }
    if (kind === "guest-attributes" && name === "gitlab-runner" && key !== undefined) {
      const value = this.guestAttributes.get(key);
      return value === undefined ? send(404) : send(200, value);
    }
    if (path === "service-accounts/default/token") return send(200, { access_token: this.token, expires_in: 3599 });
    if (path === "service-accounts/default/email") return send(200, this.email);
    if (path === "name") return send(200, "gitlab-runner");
    if (kind !== "attributes" || name === undefined) return send(404);
    const etag = () =>
      createHash("sha256")
        .update(this.attributes.get(name) ?? "")
        .digest("hex")
        .slice(0, 16);
    if (url.searchParams.get("wait_for_change") === "true") {
      const seconds = Number(url.searchParams.get("timeout_sec"));
      const end = Date.now() + seconds * 1000;
      while (etag() === url.searchParams.get("last_etag") && Date.now() < end) {
        await Promise.race([
          once(this.changes, "change"),
          new Promise((resolve) => setTimeout(resolve, end - Date.now()).unref()),
        ]);
      }
    }
    const value = this.attributes.get(name);
    return value === undefined ? send(404) : send(200, value, { ETag: etag() });
  }

  private answerSecretManager(
    request: IncomingMessage,
    path: string,
    body: string,
    send: (status: number, content?: unknown) => void,
  ): void {
    const error = (code: number, message: string) => send(code, { error: { code, message } });
    if (request.headers.authorization !== `Bearer ${this.token}`) return error(401, "invalid credentials");
    if (this.denials > 0) {
      this.denials -= 1;
      return error(403, "Permission denied (or it may not exist).");
    }
    const [, secret = "", version, action] =
      path.match(/^(projects\/[^/]+\/secrets\/[^/:]+)(?:\/versions\/([^:]+))?:(\w+)$/) ?? [];
    const versions = this.secrets.get(secret);
    if (versions === undefined) return error(404, `Secret [${secret}] not found or has no versions.`);
    if (action === "addVersion" && request.method === "POST") {
      const { payload } = JSON.parse(body) as { payload: { data: string } };
      versions.push(Buffer.from(payload.data, "base64").toString());
      return send(200, { name: `${secret}/versions/${versions.length}` });
    }
    this.accessed.push(`${secret}/versions/${version}`);
    const payload = version === "latest" ? versions.at(-1) : versions[Number(version) - 1];
    if (payload === undefined) return error(404, `Secret [${secret}] not found or has no versions.`);
    send(200, { name: path, payload: { data: Buffer.from(payload).toString("base64") } });
  }

  private answerVms(
    request: IncomingMessage,
    url: URL,
    path: string,
    send: (status: number, content?: unknown) => void,
  ): void {
    const error = (code: number, reason: string, message: string) =>
      send(code, { error: { code, message, errors: [{ message, reason, domain: "global" }] } });
    const lacks = (permission: string) => {
      if (this.lacking.has(permission)) error(403, "forbidden", `Required '${permission}' permission for '${path}'`);
      return this.lacking.has(permission);
    };
    if (request.headers.authorization !== `Bearer ${this.token}`) return error(401, "required", "invalid credentials");
    if (this.computeStatus !== 200) return error(this.computeStatus, "backendError", "Backend Error");
    if (request.method === "GET" && path === "aggregated/instances") {
      if (lacks("compute.instances.list")) return;
      const [, label, value] =
        url.searchParams.get("filter")?.match(/^labels\.([a-z][a-z0-9_-]*)=([a-z0-9_-]+)$/) ?? [];
      if (label === undefined) return error(400, "invalid", "Invalid list filter expression.");
      return send(200, this.page(label, value, Number(url.searchParams.get("pageToken") ?? 0)));
    }
    const [, zone, name = ""] = path.match(/^zones\/([^/]+)\/instances\/([^/]+)$/) ?? [];
    if (request.method !== "DELETE" || zone === undefined)
      return error(501, "notImplemented", `not in the fake: ${path}`);
    if (lacks("compute.instances.delete")) return;
    const instance = this.instances.get(name);
    if (instance?.zone !== zone) return error(404, "notFound", `The resource '${path}' was not found`);
    if (this.undeletable.has(name)) return error(400, "invalid", `Resource cannot be deleted: ${path} is protected`);
    instance.status = "STOPPING";
    this.deleted.push(name);
    setTimeout(() => this.instances.delete(name), 500).unref();
    send(200, { kind: "compute#operation", name: "operation-1", status: "RUNNING" });
  }

  /** One VM a page, and every zone on each, as Google does it. */
  private page(label: string, value: string | undefined, start: number): object {
    const found = [...this.instances].filter(([, { labels }]) => this.ignoresFilter || labels?.[label] === value);
    const [instance] = found.slice(start);
    const none = {
      warning: { code: "NO_RESULTS_ON_PAGE", message: "There are no results for this scope on this page." },
    };
    const items = Object.fromEntries(
      ["us-central1-a", "us-central1-b"].map((zone) => [`zones/${zone}`, none as object]),
    );
    for (const zone of this.unreachableZones) items[`zones/${zone}`] = { warning: { code: "UNREACHABLE" } };
    if (instance && !this.unreachableZones.includes(instance[1].zone)) {
      const [name, { zone, ...shown }] = instance;
      items[`zones/${zone}`] = { instances: [{ name, ...shown }] };
    }
    return { items, ...(found.length > start + 1 && { nextPageToken: `${start + 1}` }) };
  }

  private answerCompute(request: IncomingMessage, send: (status: number, content?: unknown) => void): void {
    if (request.headers.authorization !== `Bearer ${this.token}`) return send(401, { error: { code: 401 } });
    if (this.computeStatus !== 200) return send(this.computeStatus, { error: { code: this.computeStatus } });
    if (this.guestAttributes.size === 0) return send(404, { error: { code: 404 } });
    const items = [...this.guestAttributes].map(([key, value]) => ({ namespace: "gitlab-runner", key, value }));
    const text = JSON.stringify(
      { kind: "compute#guestAttributes", queryPath: "gitlab-runner/", queryValue: { items } },
      null,
      2,
    );
    send(
      200,
      text.replace(/[<>&'=]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`),
    );
  }
}
