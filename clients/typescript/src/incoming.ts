import type { ClientReadableStream, ServiceError } from "@grpc/grpc-js";
import type { Pause } from "./patience.js";

/**
 * Cancel a call, on the server too. grpc-js sends a call that is cancelled in the tick in which it
 * began all the same, and then nobody cancels it: hence once more when it is on its way.
 */
export function giveUp(call: { cancel(): void }): void {
  call.cancel();
  setImmediate(() => call.cancel());
}

/** One call, as its messages are read. */
export interface Tries<Item> {
  /** Send it, for the first time or again. */
  begin(): ClientReadableStream<Item>;
  /** Return this package's error for gRPC's. */
  typed(error: ServiceError): Error;
  /** Begin to wait for the next try; undefined: there is none. */
  pause(failure: Error): Pause | undefined;
  /** Return the error of a call that was given up here. */
  cancelled(): Error;
}

/**
 * The messages that answer one call, read one by one; unread ones hold the server back. Until the
 * first has come the call may be begun anew.
 */
export class Incoming<Item> {
  readonly #tries: Tries<Item>;
  #call: ClientReadableStream<Item>;
  #pause: Pause | undefined;
  #failure: Error | undefined;
  #mayTryAgain = true;
  #isOver = false;
  #isCancelled = false;
  #wake: () => void = () => {};

  constructor(tries: Tries<Item>) {
    this.#tries = tries;
    this.#call = this.#begun();
  }

  /** Return the next message; undefined at the end. One reader at a time. */
  async next(): Promise<Item | undefined> {
    for (;;) {
      if (this.#isCancelled) {
        throw this.#tries.cancelled();
      }
      const item = this.#call.read() as Item | null;
      if (item !== null) {
        this.#mayTryAgain = false;
        return item;
      }
      if (this.#failure) {
        await this.#tryAgain(this.#failure);
        continue;
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
    const hasFailed = this.#failure !== undefined && this.#pause === undefined;
    this.#isCancelled ||= !this.#isOver && !hasFailed;
    this.#mayTryAgain = false;
    giveUp(this.#pause ?? this.#call);
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

  #begun(): ClientReadableStream<Item> {
    const call = this.#tries.begin();
    // From the start: an error nobody listens to would end the process.
    call.on("readable", () => this.#wake());
    call.on("end", () => {
      // A call that has failed ends, too, perhaps when it has been begun anew.
      this.#isOver ||= call === this.#call && this.#failure === undefined;
      this.#wake();
    });
    call.on("error", (error: ServiceError) => {
      this.#failure = this.#tries.typed(error);
      this.#wake();
    });
    return call;
  }

  /** Begin the call anew when the server says so, unless it is given up; throws if it does not. */
  async #tryAgain(failure: Error): Promise<void> {
    const pause = this.#mayTryAgain ? this.#tries.pause(failure) : undefined;
    if (pause === undefined) {
      this.#mayTryAgain = false;
      throw failure;
    }
    this.#pause = pause;
    const hasPassed = await pause.over;
    this.#pause = undefined;
    if (hasPassed && !this.#isCancelled) {
      this.#call = this.#begun();
      this.#failure = undefined;
    } else {
      this.#isCancelled = true;
    }
  }
}
