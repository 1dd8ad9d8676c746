import type { ClientReadableStream, ServiceError } from "@grpc/grpc-js";
import { cancelled } from "./errors.js";

/**
 * Cancel a call, on the server too. grpc-js sends a call that is cancelled in the tick in which it
 * began all the same, and then nobody cancels it: hence once more when it is on its way.
 */
export function giveUp(call: { cancel(): void }): void {
  call.cancel();
  setImmediate(() => call.cancel());
}

/** The messages that answer one call, read one by one; unread ones hold the server back. */
export class Incoming<Item> {
  readonly #call: ClientReadableStream<Item>;
  readonly #typed: (error: ServiceError) => Error;
  #failure: ServiceError | undefined;
  #isOver = false;
  #isCancelled = false;
  #wake: () => void = () => {};

  constructor(call: ClientReadableStream<Item>, typed: (error: ServiceError) => Error) {
    this.#call = call;
    this.#typed = typed;
    // From the start: an error nobody listens to would end the process.
    call.on("readable", () => this.#wake());
    call.on("end", () => {
      this.#isOver = true;
      this.#wake();
    });
    call.on("error", (error: ServiceError) => {
      this.#failure = error;
      this.#wake();
    });
  }

  /** Return the next message; undefined at the end. One reader at a time. */
  async next(): Promise<Item | undefined> {
    for (;;) {
      if (this.#isCancelled) {
        throw cancelled();
      }
      const item = this.#call.read() as Item | null;
      if (item !== null) {
        return item;
      }
      if (this.#failure) {
        throw this.#typed(this.#failure);
      }
      if (this.#isOver) {
        return undefined;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Give the call up, on the server too; further reads throw Cancelled. */
  cancel(): void {
    this.#isCancelled = !this.#isOver && this.#failure === undefined;
    giveUp(this.#call);
    this.#wake();
  }

  /** Yield every message; leaving early cancels the call. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Item, void> {
    try {
      for (let item = await this.next(); item !== undefined; item = await this.next()) {
        yield item;
      }
    } finally {
      this.cancel();
    }
  }
}
