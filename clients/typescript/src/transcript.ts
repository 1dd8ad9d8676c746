import { whole } from "./responses.js";
import type { Choice, Ending, Finished, Generation, Logprobs, Started, TokenBatch } from "./results.js";

/** Puts a stream's events together into the result a unary call would have returned. */
export class Transcript {
  started: Started | undefined;
  finished: Finished | undefined;
  readonly batches: TokenBatch[] = [];

  get isWhole(): boolean {
    return this.started !== undefined && this.finished !== undefined;
  }

  /** The answer, once it is whole. */
  result(): Generation {
    const { endings, usage, timings } = this.finished!;
    const choices = endings.map((ending) => this.#choice(ending));
    return whole({ started: this.started!, choices, usage, timings });
  }

  #choice({ choice, outputTokens: _, ...ending }: Ending): Choice {
    const batches = this.batches.filter((batch) => batch.choice === choice);
    const logprobs = joined(batches.flatMap((batch) => batch.logprobs ?? []));
    return {
      index: choice,
      text: batches.map((batch) => batch.text).join(""),
      tokenIds: batches.flatMap((batch) => batch.tokenIds),
      explanations: batches.flatMap((batch) => batch.explanations),
      forcedPositions: batches.flatMap((batch) => batch.forcedPositions),
      ...(logprobs && { logprobs }),
      ...ending,
    };
  }
}

function joined(parts: readonly Logprobs[]): Logprobs | undefined {
  return parts.length === 0
    ? undefined
    : {
        raw: parts.flatMap((part) => part.raw),
        rawRank: parts.flatMap((part) => part.rawRank),
        controlled: parts.flatMap((part) => part.controlled),
        controlledRank: parts.flatMap((part) => part.controlledRank),
        topRaw: parts.flatMap((part) => part.topRaw),
        topControlled: parts.flatMap((part) => part.topControlled),
        tokenBytes: parts.flatMap((part) => part.tokenBytes),
      };
}
