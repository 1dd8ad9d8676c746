import type { Incoming } from "./incoming.js";

/** What the messages of one call tell: each event is yielded once, however many read. */
export class Feed<Message, Event> {
  readonly #incoming: Incoming<Message>;
  readonly #take: (message: Message) => Event | undefined;
  readonly #finish: () => void;
  readonly #unread: Event[] = [];
  #isOver = false;
  #receiving: Promise<void> | undefined;

  /** `take` reads a message, `finish` throws if more should have come. */
  constructor(
    incoming: Incoming<Message>,
    take: (message: Message) => Event | undefined,
    finish: () => void,
  ) {
    this.#incoming = incoming;
    this.#take = take;
    this.#finish = finish;
  }

  /** Leaving early cancels the call. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void> {
    try {
      for (;;) {
        const event = this.#unread.shift();
        if (event !== undefined) {
          yield event;
        } else if (this.#isOver) {
          return;
        } else {
          await this.receive();
        }
      }
    } finally {
      this.cancel();
    }
  }

  /** Wait for the call's end. */
  async end(): Promise<void> {
    while (!this.#isOver) {
      await this.receive();
    }
  }

  /** Take one message; all who wait for one wait for the same. */
  receive(): Promise<void> {
    this.#receiving ??= this.#next().finally(() => {
      this.#receiving = undefined;
    });
    return this.#receiving;
  }

  /** Give the call up; further reads throw Cancelled. */
  cancel(): void {
    if (!this.#isOver) {
      this.#incoming.cancel();
    }
  }

  async #next(): Promise<void> {
    const message = await this.#incoming.next();
    if (message === undefined) {
      this.#finish();
      this.#isOver = true;
      return;
    }
    const event = this.#take(message);
    if (event !== undefined) {
      this.#unread.push(event);
    }
  }
}
