import { InternalError } from "./errors.js";
import { Feed } from "./feed.js";
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
  readonly #feed: Feed<GenerateStreamResponse, TokenBatch>;
  readonly #transcript = new Transcript();

  constructor(incoming: Incoming<GenerateStreamResponse>, requestId: string) {
    this.requestId = requestId;
    this.#feed = new Feed(
      incoming,
      (message) => this.#take(message),
      () => {
        if (!this.#transcript.isWhole) {
          throw new InternalError("the server ended the stream early");
        }
      },
    );
  }

  /** What the server made of the request; waits for it if need be. */
  async started(): Promise<Started> {
    while (this.#transcript.started === undefined) {
      await this.#feed.receive();
    }
    return this.#transcript.started;
  }

  [Symbol.asyncIterator](): AsyncGenerator<TokenBatch, void> {
    return this.#feed[Symbol.asyncIterator]();
  }

  /** Wait for the end and return everything, what was iterated over included. */
  async result(): Promise<Generation> {
    await this.#feed.end();
    return this.#transcript.result();
  }

  /** Stop generating; further reads throw Cancelled. */
  cancel(): void {
    this.#feed.cancel();
  }

  [Symbol.dispose](): void {
    this.cancel();
  }

  #take({ event }: GenerateStreamResponse): TokenBatch | undefined {
    switch (event.case) {
      case "started":
        this.#transcript.started = started(event.value);
        return undefined;
      case "tokens": {
        const tokens = mirror(TokenBatchSchema, event.value);
        this.#transcript.batches.push(tokens);
        return tokens;
      }
      case "finished":
        this.#transcript.finished = finished(event.value);
        return undefined;
      default:
        // A newer server's.
        return undefined;
    }
  }
}
