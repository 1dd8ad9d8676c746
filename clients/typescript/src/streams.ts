import { InternalError } from "./errors.js";
import { TokenBatchSchema, type GenerateStreamResponse } from "./gen/bosal/v1/generation_pb.js";
import type { Incoming } from "./incoming.js";
import { mirror } from "./mirror.js";
import { finished, started } from "./responses.js";
import type { Generation, Started, TokenBatch } from "./results.js";
import { Transcript } from "./transcript.js";

/**
 * A generation under way: iterate over its token batches, or await `result()`.
 *
 * Leaving the loop early cancels it, and so does leaving a block with `using`.
 */
export class Stream implements AsyncIterable<TokenBatch> {
  readonly requestId: string;
  readonly #incoming: Incoming<GenerateStreamResponse>;
  readonly #transcript = new Transcript();
  #numYielded = 0;
  #isOver = false;
  #receiving: Promise<void> | undefined;

  constructor(incoming: Incoming<GenerateStreamResponse>, requestId: string) {
    this.#incoming = incoming;
    this.requestId = requestId;
  }

  /** What the server made of the request; waits for it if need be. */
  async started(): Promise<Started> {
    while (this.#transcript.started === undefined) {
      await this.#receive();
    }
    return this.#transcript.started;
  }

  /** Yield each batch once, however many ask. */
  async *[Symbol.asyncIterator](): AsyncGenerator<TokenBatch, void> {
    const { batches } = this.#transcript;
    try {
      for (;;) {
        const batch = batches[this.#numYielded];
        if (batch !== undefined) {
          this.#numYielded += 1;
          yield batch;
        } else if (this.#isOver) {
          return;
        } else {
          await this.#receive();
        }
      }
    } finally {
      this.cancel();
    }
  }

  /** Wait for the end and return everything, what was iterated over included. */
  async result(): Promise<Generation> {
    while (!this.#isOver) {
      await this.#receive();
    }
    return this.#transcript.result()!;
  }

  /** Stop generating; further reads throw Cancelled. */
  cancel(): void {
    if (!this.#isOver) {
      this.#incoming.cancel();
    }
  }

  [Symbol.dispose](): void {
    this.cancel();
  }

  /** Take one event; all who wait for one wait for the same. */
  #receive(): Promise<void> {
    this.#receiving ??= this.#take().finally(() => {
      this.#receiving = undefined;
    });
    return this.#receiving;
  }

  async #take(): Promise<void> {
    const message = await this.#incoming.next();
    switch (message?.event.case) {
      case "started":
        this.#transcript.started = started(message.event.value);
        break;
      case "tokens":
        this.#transcript.batches.push(mirror(TokenBatchSchema, message.event.value));
        break;
      case "finished":
        this.#transcript.finished = finished(message.event.value);
        // The status follows at once.
        while ((await this.#incoming.next()) !== undefined);
        this.#isOver = true;
    }
    if (message === undefined || (this.#isOver && this.#transcript.started === undefined)) {
      throw new InternalError("the server ended the stream early");
    }
  }
}
