import { createWriteStream } from "node:fs";
import { once } from "node:events";
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { Socket } from "node:net";
import { join } from "node:path";
import { ADDRESSES, GOOGLE_PROXY_PORT, LOGS } from "../settings";
import { type Api, ApiError } from "./api";
import { ComputeEngine, type ForkOptions } from "./compute-engine";
import { Iam } from "./iam";
import { SecretManager } from "./secret-manager";

export interface Tls {
  readonly key: Buffer;
  readonly cert: Buffer;
}

export interface LoggedCall {
  readonly time: number;
  readonly caller: string;
  readonly method: string;
  readonly host: string;
  readonly path: string;
  readonly status: number;
}

/** Google's REST APIs at their own addresses. VMs get here by the name server, Terraform by a proxy on loopback. */
export class GoogleApis {
  readonly calls: LoggedCall[] = [];
  private readonly log = createWriteStream(join(LOGS, "google.jsonl"));
  private readonly hosts: { readonly [host: string]: Api };

  constructor(
    private readonly iam: Iam,
    private readonly compute: ComputeEngine,
    secrets: SecretManager,
  ) {
    this.hosts = {
      "compute.googleapis.com": compute,
      "www.googleapis.com": compute,
      "iam.googleapis.com": iam,
      "cloudresourcemanager.googleapis.com": iam,
      "secretmanager.googleapis.com": secrets,
    };
  }

  async listen(tls: Tls): Promise<void> {
    const server = createServer(tls, (request, response) => void this.answer(request, response));
    await once(server.listen(443, ADDRESSES.google), "listening");
    await this.listenAsProxy(server);
  }

  private async listenAsProxy(server: Server): Promise<void> {
    const proxy = createHttpServer((_, response) => response.writeHead(403).end());
    proxy.on("connect", (request: IncomingMessage, socket: Socket) => {
      const known = /^[a-z]+\.googleapis\.com:443$/.test(request.url!);
      socket.on("error", () => {}).write(`HTTP/1.1 ${known ? "200 OK" : "403 Forbidden"}\r\n\r\n`);
      if (known) {
        server.emit("connection", socket);
      } else {
        socket.end();
      }
    });
    await once(proxy.listen(GOOGLE_PROXY_PORT, "127.0.0.1"), "listening");
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const host = (request.headers.host ?? "").replace(/:.*/, "");
    const url = new URL(request.url!, `https://${host}`);
    const path = decodeURIComponent(url.pathname.slice(1));
    const text = Buffer.concat(await request.toArray()).toString();
    let caller = "";
    let status = 200;
    let body: unknown;
    try {
      const fork = /^lab\/instances\/([^/]+)$/.exec(path);
      if (fork) {
        this.compute.setForkOptions(fork[1], forkOptions(new URLSearchParams(text)));
        body = {};
      } else {
        caller = this.iam.callerOf(request.headers.authorization);
        const api = this.hosts[host];
        if (!api) {
          throw new ApiError(404, `The lab does not know ${host}`);
        }
        const { searchParams: query } = url;
        body = await api.answer({ method: request.method!, path, query, caller, body: text && JSON.parse(text) });
      }
    } catch (error) {
      status = error instanceof ApiError ? error.code : 500;
      body = error instanceof ApiError ? error : new ApiError(500, (error as Error).stack!);
    }
    const answer = JSON.stringify(body);
    const call = { time: Date.now(), caller, method: request.method!, host, path, status };
    this.calls.push(call);
    this.log.write(`${JSON.stringify({ ...call, ...(status >= 400 && { answer }) })}\n`);
    response.writeHead(status, { "Content-Type": "application/json; charset=UTF-8" }).end(answer);
  }
}

function forkOptions(form: URLSearchParams): ForkOptions {
  const pairs = (field: string, separator: string) =>
    Object.fromEntries(
      form.getAll(field).map((text) => {
        const at = text.indexOf(separator);
        return [text.slice(0, at), text.slice(at + 1)];
      }),
    );
  return {
    labels: pairs("label", ":"),
    metadata: pairs("metadata", "="),
    skipFirewallCreate: form.has("skip-firewall-create"),
  };
}
