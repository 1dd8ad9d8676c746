/**
 * Trying a refused call again when the server says so, for as long as its caller will wait.
 *
 * Only a call that was turned away for want of room or quota, before its first message, is tried
 * again; it keeps its request id, so that it is one exposure of an experiment however often it
 * comes.
 */

import { InvalidRequest, Overloaded } from "./errors.js";
import { shown } from "./params.js";

// Of the server's delay: many are told the same, and should not all come at once.
const SPREAD = 0.25;
const SHORTEST_SECONDS = 0.05;
// What a timer can hold.
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Return how long calls may be tried again, in seconds; what is no time is an error. */
export function checkedPatience(seconds: number): number {
  if (typeof seconds !== "number" || !(seconds >= 0)) {
    throw new InvalidRequest(`retrySeconds: seconds, 0 for none, not ${shown(seconds)}`, {
      field: "retrySeconds",
    });
  }
  return seconds;
}

/** How long one call has left for its tries. Times are seconds. */
export class Waits {
  readonly #deadline: number;
  readonly #until: number;
  readonly #clock: () => number;
  readonly #chance: () => number;

  constructor(
    patience: number,
    timeout = Infinity,
    clock = () => performance.now() / 1000,
    chance = Math.random,
  ) {
    this.#deadline = clock() + timeout;
    this.#until = clock() + patience;
    this.#clock = clock;
    this.#chance = chance;
  }

  /**
   * Return the seconds until the next try; undefined: there is none. It is never earlier than the
   * server says, and never so late that it could not be answered.
   */
  pause(failure: unknown): number | undefined {
    if (!(failure instanceof Overloaded) || failure.retryAfter === undefined) {
      return undefined;
    }
    const delay = Math.max(failure.retryAfter, SHORTEST_SECONDS);
    const seconds = delay * (1 + SPREAD * this.#chance());
    const again = this.#clock() + seconds;
    return again > this.#until || again >= this.#deadline ? undefined : seconds;
  }
}

/** So many seconds that pass, unless they are given up. */
export class Pause {
  /** Whether they passed. */
  readonly over: Promise<boolean>;
  #end!: (hasPassed: boolean) => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(seconds: number) {
    this.over = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#wait(performance.now() + seconds * 1000);
  }

  cancel(): void {
    clearTimeout(this.#timer);
    this.#end(false);
  }

  /** A timer may fire early, and holds no more than 24 days. */
  #wait(until: number): void {
    const left = Math.ceil(until - performance.now());
    if (left <= 0) {
      this.#end(true);
    } else {
      this.#timer = setTimeout(() => this.#wait(until), Math.min(left, LONGEST_TIMER_MS));
    }
  }
}
