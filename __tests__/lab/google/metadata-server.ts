import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { METADATA_ADDRESS, PROJECT, PROJECT_NUMBER, SUBNET, ZONE } from "../settings";
import { ComputeEngine } from "./compute-engine";
import { Iam } from "./iam";
import { Instance } from "./instance";

type Tree = string | number | readonly Tree[] | { readonly [key: string]: Tree };

const isFolder = (node: Tree): node is { readonly [key: string]: Tree } =>
  typeof node === "object" && !Array.isArray(node);
const etagOf = (node: unknown) =>
  createHash("sha256")
    .update(JSON.stringify(node ?? null))
    .digest("hex")
    .slice(0, 16);
const json = { "Content-Type": "application/json" };

/** The metadata server of every VM, which it tells apart by their addresses. */
export class MetadataServer {
  /** Every answer's text, for those who look for secrets in them. Tokens are none of them: they are what it is for. */
  readonly answers = new Set<string>();

  constructor(
    private readonly compute: ComputeEngine,
    private readonly iam: Iam,
  ) {}

  async listen(): Promise<void> {
    const server = createServer({ requestTimeout: 0 }, (request, response) => {
      this.answer(request, response).catch((error: Error) => response.writeHead(500).end(error.message));
    });
    await once(server.listen(80, METADATA_ADDRESS), "listening");
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url!, "http://metadata.google.internal");
    const send = (status: number, text: string, headers: object = {}) => {
      response
        .writeHead(status, { "Metadata-Flavor": "Google", "Content-Type": "application/text", ...headers })
        .end(text);
    };
    const instance = this.compute.all.find(({ address }) => address === request.socket.remoteAddress);
    if (!instance) {
      return send(404, "unknown instance");
    }
    if (url.pathname === "/") {
      return send(200, "computeMetadata/\n");
    }
    if (request.headers["metadata-flavor"] !== "Google" || request.headers["x-forwarded-for"] !== undefined) {
      return send(403, 'Missing required header "Metadata-Flavor": "Google"');
    }
    const match = /^\/computeMetadata\/v1(?:beta1)?\/(.*)$/.exec(url.pathname);
    if (!match) {
      return send(404, "not found");
    }
    const path = match[1].split("/").filter(Boolean).map(decodeURIComponent);
    if (path[1] === "guest-attributes" && request.method !== "GET") {
      return send(...(await this.setGuestAttribute(instance, path, request)));
    }
    if (request.method !== "GET") {
      return send(405, "method not allowed");
    }
    if (path[1] === "service-accounts" && path[3] === "token") {
      const account = instance.serviceAccount;
      return account
        ? send(200, JSON.stringify(this.token(account.email)), json)
        : send(404, "there is no service account");
    }
    const node = await this.look(instance, path, url.searchParams, response);
    if (node === undefined) {
      return send(404, "not found");
    }
    if (isFolder(node) && !url.pathname.endsWith("/")) {
      return send(301, "", { Location: `http://metadata.google.internal${url.pathname}/${url.search}` });
    }
    // cloud-init writes "True".
    const recursive = url.searchParams.get("recursive")?.toLowerCase() === "true";
    const asJson = url.searchParams.get("alt") === "json" || (recursive && url.searchParams.get("alt") !== "text");
    const text = asJson ? JSON.stringify(camelCased(node, path[1])) : asText(node);
    this.answers.add(text);
    send(200, text, { ETag: etagOf(node), ...(asJson && json) });
  }

  private token(email: string): object {
    return { access_token: this.iam.tokenFor(`serviceAccount:${email}`), expires_in: 3599, token_type: "Bearer" };
  }

  private async setGuestAttribute(
    instance: Instance,
    path: string[],
    request: IncomingMessage,
  ): Promise<[number, string]> {
    if (instance.metadata["enable-guest-attributes"] !== "TRUE") {
      return [403, "Guest attributes endpoint access is disabled."];
    }
    if (path.length !== 4) {
      return [400, "want namespace/key"];
    }
    const key = path.slice(2).join("/");
    if (request.method === "DELETE") {
      instance.guestAttributes.delete(key);
    } else {
      instance.publish(key, Buffer.concat(await request.toArray()).toString());
    }
    return [200, ""];
  }

  /** The node at that path; with `wait_for_change`, as soon as it is another than the client knows. */
  private async look(
    instance: Instance,
    path: string[],
    query: URLSearchParams,
    response: ServerResponse,
  ): Promise<Tree | undefined> {
    const find = () =>
      path.reduce<Tree | undefined>(
        (node, key) => (node !== undefined && isFolder(node) && Object.hasOwn(node, key) ? node[key] : undefined),
        this.tree(instance),
      );
    if (query.get("wait_for_change")?.toLowerCase() !== "true") {
      return find();
    }
    const known = query.get("last_etag") ?? etagOf(find());
    const seconds = Number(query.get("timeout_sec") ?? 0);
    const end = new AbortController();
    const timer = seconds > 0 ? setTimeout(() => end.abort(), seconds * 1000) : undefined;
    response.once("close", () => end.abort());
    while (!end.signal.aborted && etagOf(find()) === known) {
      await once(this.compute.changes, "change", { signal: end.signal }).catch(() => {});
    }
    clearTimeout(timer);
    return find();
  }

  private tree(instance: Instance): Tree {
    const account = instance.serviceAccount;
    const shown = account && { email: account.email, aliases: ["default"], scopes: account.scopes };
    const attributes: { [namespace: string]: { [key: string]: string } } = {};
    for (const [path, value] of instance.guestAttributes) {
      const [namespace, key] = path.split("/") as [string, string];
      (attributes[namespace] ??= {})[key] = value;
    }
    return {
      project: { "project-id": PROJECT, "numeric-project-id": Number(PROJECT_NUMBER), attributes: {} },
      instance: {
        id: instance.id,
        name: instance.name,
        hostname: `${instance.name}.${ZONE}.c.${PROJECT}.internal`,
        zone: `projects/${PROJECT_NUMBER}/zones/${ZONE}`,
        "machine-type": `projects/${PROJECT_NUMBER}/machineTypes/${instance.machineTypeName}`,
        image: "",
        description: "",
        preempted: "FALSE",
        "maintenance-event": "NONE",
        tags: instance.tags,
        attributes: instance.metadata,
        "guest-attributes": attributes,
        disks: [{ "device-name": "persistent-disk-0", index: 0, mode: "READ_WRITE", type: "PERSISTENT" }],
        "network-interfaces": [
          {
            ip: instance.address,
            mac: "",
            mtu: 1460,
            network: `projects/${PROJECT_NUMBER}/networks/lab`,
            gateway: SUBNET.gateway,
            subnetmask: "255.255.240.0",
            "dns-servers": [METADATA_ADDRESS],
            "access-configs": [],
            "forwarded-ips": [],
            "ip-aliases": [],
            "target-instance-ips": [],
          },
        ],
        "service-accounts": shown ? { default: shown, [shown.email]: shown } : {},
      },
    };
  }
}

/** In JSON the keys are in camel case, but for those that are somebody's own. */
function camelCased(node: Tree, above?: string): Tree {
  if (Array.isArray(node)) {
    return (node as readonly Tree[]).map((item) => camelCased(item));
  }
  if (!isFolder(node)) {
    return node;
  }
  const own = above === "attributes" || above === "guest-attributes" || above === "service-accounts";
  return Object.fromEntries(
    Object.entries(node).map(([key, value]) => {
      const shown = own ? key : key.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
      return [shown, camelCased(value, above === "guest-attributes" ? above : key)];
    }),
  );
}

function asText(node: Tree): string {
  if (isFolder(node)) {
    const names = Object.entries(node).map(([key, value]) => (isFolder(value) ? `${key}/` : key));
    return names.map((name) => `${name}\n`).join("");
  }
  return typeof node === "object" ? node.map((item) => `${asText(item)}\n`).join("") : String(node);
}
