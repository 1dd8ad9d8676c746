/** What generating, scoring and tokenizing return: plain values that mirror the wire contract. */

import type { RecipeDocument, RuleDocument } from "./documents.js";
import type * as pb from "./gen/bosal/v1/generation_pb.js";
import type { Mirror, Present } from "./mirror.js";

/** Everything needed to issue the same request again. */
export interface Started extends Omit<Mirror<pb.Started>, "recipe" | "overrides"> {
  /** The recipe document in force, overrides applied. */
  readonly recipe: RecipeDocument;
  /** Rules the request overrode, as it gave them. */
  readonly overrides: readonly RuleDocument[];
  /** Version of the recipe before that; "" if the request overrode nothing. */
  readonly baseVersion: string;
}

/** Log-probabilities before (`raw`) and after (`controlled`) the rules, one per token. */
export interface Logprobs extends Mirror<pb.Logprobs> {}

/** The best tokens of one position, best first. */
export interface TopLogprobs extends Mirror<pb.TopLogprobs> {}

/** One or many tokens of one choice, and the text that became final with them. */
export interface TokenBatch extends Mirror<pb.TokenBatch> {}

/** What one token owes to the model and what to the rules. */
export interface Explanation extends Mirror<pb.Explanation> {}

/** What one rule did to one draw: the recipe against the recipe without it. */
export interface RuleEffect extends Mirror<pb.RuleEffect> {}

/** The explanations of one choice, added up. */
export interface ExplanationSummary extends Omit<Mirror<pb.ExplanationSummary>, "rules"> {
  /** By rule: tokens where it did something. */
  readonly activations: Readonly<Record<string, number>>;
  /** By rule: tokens that removing it alone would give back. */
  readonly flips: Readonly<Record<string, number>>;
}

/** Why a choice ended. */
export interface Ending extends Omit<Mirror<pb.Ending>, "reason" | "explanation"> {
  readonly finishReason: Mirror<pb.Ending>["reason"];
  readonly explanation?: ExplanationSummary;
}

/** The last event of a stream. */
export interface Finished {
  readonly endings: readonly Ending[];
  readonly usage: Usage;
  readonly timings: Timings;
}

/** One whole answer and why it ended. */
export interface Choice
  extends Omit<Mirror<pb.Choice>, "ending">,
    Omit<Ending, "choice" | "outputTokens"> {}

export interface Usage extends Mirror<pb.Usage> {}

/** The server's clock, in seconds. */
export interface Timings extends Present<Mirror<pb.Timings>> {}

/** Every choice of a request, finished. */
export interface Generation {
  readonly requestId: string;
  /** The first choice's. */
  readonly text: string;
  readonly started: Started;
  readonly choices: readonly Choice[];
  readonly usage: Usage;
  readonly timings: Timings;
}

/** The log-probabilities of a given answer; controlled is -Infinity where a rule forbids it. */
export interface Score extends Present<Mirror<pb.ScoreResponse>, "logprobs" | "usage"> {}

/** A text as one model reads it. */
export interface TokenSequence extends Mirror<pb.TokenSequence> {}

/** Return the rules without which a token would have been another. */
export function decidingRules(explanation: Explanation, token: number): string[] {
  const decide = ({ tokenWithout }: RuleEffect) =>
    tokenWithout !== undefined && tokenWithout !== token;
  return explanation.rules.filter(decide).map(({ rule }) => rule);
}
