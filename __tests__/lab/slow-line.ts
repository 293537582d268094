import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createServer } from "node:tls";
import { setTimeout as sleep } from "node:timers/promises";
import type { Tls } from "./google/server";

/** Bytes on the way at most: the line's rate for half a second. */
const IN_FLIGHT = 6_000_000;

/** A relay that is as slow as a line to another continent: a delay and a rate, shared by all connections. */
export class SlowLine {
  /** Bytes that came over it, from there to here. */
  received = 0;

  private broken = false;
  private readonly sockets = new Set<Socket>();

  constructor(
    private readonly roundTripMs: number,
    private readonly megabitPerSecond: number,
  ) {}

  async listen(address: string, tls: Tls, targetPort: number): Promise<void> {
    const up = this.direction();
    const down = this.direction((bytes) => (this.received += bytes));
    const server = createServer({ ...tls, pauseOnConnect: true }, (client) => {
      if (this.broken) {
        client.destroy();
        return;
      }
      const target = connect(targetPort, "127.0.0.1");
      this.sockets.add(client).add(target);
      client.on("close", () => this.sockets.delete(client));
      target.on("close", () => this.sockets.delete(target));
      // The handshake takes a round trip, too.
      void sleep(this.roundTripMs).then(() => {
        up(client, target);
        down(target, client);
      });
    });
    await once(server.listen(443, address), "listening");
  }

  /** Nothing comes through any more, until it is mended. */
  cut(broken: boolean): void {
    this.broken = broken;
    if (broken) {
      this.sockets.forEach((socket) => socket.destroy());
    }
  }

  private direction(count: (bytes: number) => unknown = () => {}): (from: Socket, to: Socket) => void {
    const bytesPerMs = (this.megabitPerSecond * 1e6) / 8 / 1000;
    let free = 0; // when the line has sent all that it took
    return (from, to) => {
      const queue: { readonly due: number; readonly chunk: Buffer | undefined }[] = [];
      let waiting = 0;
      const deliver = () => {
        while (queue.length > 0 && queue[0].due <= performance.now()) {
          const { chunk } = queue.shift()!;
          waiting -= chunk?.length ?? 0;
          if (chunk) {
            to.write(chunk);
          } else {
            to.end();
          }
        }
        from.resume();
        if (queue.length > 0) {
          setTimeout(deliver, queue[0].due - performance.now());
        }
      };
      const send = (chunk?: Buffer) => {
        queue.push({ due: free + this.roundTripMs / 2, chunk });
        if (queue.length === 1) {
          setTimeout(deliver, queue[0].due - performance.now());
        }
      };
      from.on("data", (chunk: Buffer) => {
        count(chunk.length);
        free = Math.max(performance.now(), free) + chunk.length / bytesPerMs;
        waiting += chunk.length;
        if (waiting > IN_FLIGHT) {
          from.pause();
        }
        send(chunk);
      });
      from.on("end", () => send());
      from.on("error", () => to.destroy());
      from.on("close", (broken) => broken && to.destroy());
      from.resume();
    };
  }
}
