import { whole } from "./responses.js";
import type { Choice, Ending, Finished, Generation, Logprobs, Started, TokenBatch } from "./results.js";

/** Puts a stream's events together into the result a unary call would have returned. */
export class Transcript {
  started: Started | undefined;
  finished: Finished | undefined;
  readonly batches: TokenBatch[] = [];

  /** The answer as a whole; undefined until it is. */
  result(): Generation | undefined {
    const { started, finished } = this;
    return (
      started &&
      finished &&
      whole({
        started,
        choices: finished.endings.map((ending) => this.#choice(ending)),
        usage: finished.usage,
        timings: finished.timings,
      })
    );
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
