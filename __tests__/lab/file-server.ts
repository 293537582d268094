import { once } from "node:events";
import { createReadStream, statSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { createServer } from "node:https";
import { join, normalize } from "node:path";
import type { Tls } from "./google/server";
import { ADDRESSES } from "./settings";

/** Answers with a file below the folder, or 404. */
export function serveFile(folder: string, path: string, response: ServerResponse): void {
  const file = join(folder, normalize(`/${decodeURIComponent(path)}`));
  const found = statSync(file, { throwIfNoEntry: false });
  if (!found?.isFile()) {
    response.writeHead(404).end("Not Found");
    return;
  }
  response.writeHead(200, { "Content-Length": found.size, "Content-Type": "application/octet-stream" });
  createReadStream(file).pipe(response);
}

/** The server of the packages. */
export class PackageServer {
  /** How many of the next requests for a file of that name are answered with 503. */
  readonly outages = new Map<string, number>();
  /** Paths that were asked for, and the statuses of the answers. */
  readonly requests: { readonly path: string; readonly status: number }[] = [];

  constructor(private readonly folder: string) {}

  async listen(tls: Tls): Promise<void> {
    const server = createServer(tls, (request, response) => {
      const path = new URL(request.url!, "https://x").pathname;
      const name = path.slice(path.lastIndexOf("/") + 1);
      const left = this.outages.get(name) ?? 0;
      response.on("finish", () => this.requests.push({ path, status: response.statusCode }));
      if (left > 0) {
        this.outages.set(name, left - 1);
        response.writeHead(503).end("Service Unavailable");
      } else {
        serveFile(this.folder, path, response);
      }
    });
    await once(server.listen(443, ADDRESSES.packages), "listening");
  }
}
