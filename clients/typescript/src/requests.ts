/** What a caller asks for, as messages. */

import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions } from "./channel.js";
import { constraintMessage, type ConstraintDocument } from "./constraints.js";
import {
  recipeMessage,
  ruleMessages,
  type RecipeDocument,
  type RuleDocument,
} from "./documents.js";
import { InvalidRequest, invalidField } from "./errors.js";
import {
  Priority,
  type GenerationSpecSchema,
  type PromptSourceSchema,
  type ScoreRequestSchema,
  type TokenizeRequestSchema,
} from "./gen/bosal/v1/generation_pb.js";
import { shown } from "./params.js";
import { promptInput, type Prompt } from "./prompts.js";

/** Options of `generate` and `stream`; what is left out, the server decides. */
export interface GenerationOptions extends CallOptions {
  /** A served model's name. */
  readonly model?: string | undefined;
  /** `name`, `name@version`, or a whole recipe document. */
  readonly recipe?: string | RecipeDocument | undefined;
  /** Rules (`{rule: "top_p", p: 0.9}`) that replace parameters of the recipe's. */
  readonly overrides?: Iterable<RuleDocument> | undefined;
  /** Takes the place of the recipe's: `{choice: [...]}`, `{regex: ...}`, … */
  readonly constraint?: ConstraintDocument | undefined;
  readonly numChoices?: number | undefined;
  readonly maxTokens?: number | undefined;
  readonly priority?: "low" | "normal" | "high" | undefined;
  /** 64 bits: a bigint where a number would lose some. */
  readonly seed?: number | bigint | undefined;
  /** How many alternatives per position; 0: the chosen token alone. */
  readonly logprobs?: number | undefined;
  /** Explain every token. */
  readonly explain?: boolean | undefined;
  /** An experiment, which then gives the recipe. */
  readonly experiment?: string | undefined;
  /** Who is served. */
  readonly unit?: string | undefined;
  /** For debugging: serve this variant. */
  readonly forceVariant?: string | undefined;
  /** Made by the client when left out, so that a retried call keeps it. */
  readonly requestId?: string | undefined;
}

/** Options of `score`. */
export interface ScoreOptions extends CallOptions {
  readonly recipe?: string | RecipeDocument | undefined;
  readonly overrides?: Iterable<RuleDocument> | undefined;
  readonly constraint?: ConstraintDocument | undefined;
  readonly model?: string | undefined;
  /** How many alternatives per position. */
  readonly logprobs?: number | undefined;
}

/** Options of `tokenize`. */
export interface TokenizeOptions extends CallOptions {
  readonly model?: string | undefined;
  /** Of a prompt: the recipe whose scaffold renders it. */
  readonly recipe?: string | RecipeDocument | undefined;
}

const OPTIONS: Readonly<Record<keyof GenerationOptions, true>> = {
  model: true,
  recipe: true,
  overrides: true,
  constraint: true,
  numChoices: true,
  maxTokens: true,
  priority: true,
  seed: true,
  logprobs: true,
  explain: true,
  experiment: true,
  unit: true,
  forceVariant: true,
  requestId: true,
  timeout: true,
  signal: true,
};

const PRIORITIES = new Map<string, Priority>([
  ["low", Priority.LOW],
  ["normal", Priority.NORMAL],
  ["high", Priority.HIGH],
]);

type Spec = MessageInitShape<typeof GenerationSpecSchema>;
type Source = MessageInitShape<typeof PromptSourceSchema>;

/** Write a request; a value the wire cannot hold is an error that names its field. */
export function generationSpec(prompt: Prompt, options: GenerationOptions): Spec {
  const unknown = Object.keys(options).find((name) => !(name in OPTIONS));
  if (unknown !== undefined) {
    const known = Object.keys(OPTIONS).join(", ");
    throw new TypeError(`unknown option '${unknown}'; the options are ${known}`);
  }
  const { experiment, unit, forceVariant } = options;
  if (experiment === undefined && (unit !== undefined || forceVariant !== undefined)) {
    throw new TypeError("'unit' and 'forceVariant' need an 'experiment'");
  }
  const { logprobs, constraint } = options;
  return {
    requestId: options.requestId || newRequestId(),
    model: options.model ?? "",
    recipeSource: recipeSource(options.recipe, "spec"),
    input: promptInput(prompt, "spec"),
    overrides: ruleMessages(options.overrides ?? [], "spec.overrides"),
    constraint: constraint && constraintMessage(constraint, "spec.constraint"),
    numChoices: options.numChoices,
    maxTokens: options.maxTokens,
    seed: seed(options.seed),
    priority: priority(options.priority),
    logprobs: logprobs === undefined ? undefined : { top: logprobs },
    explain: options.explain ?? false,
    experiment:
      experiment === undefined
        ? undefined
        : { experiment, unitId: unit ?? "", forceVariant: forceVariant ?? "" },
  };
}

/** Write a request to score an answer, given as text or as tokens. */
export function scoreRequest(
  prompt: Prompt,
  continuation: string | readonly number[],
  options: ScoreOptions,
): MessageInitShape<typeof ScoreRequestSchema> {
  const { constraint } = options;
  return {
    requestId: newRequestId(),
    prompt: promptSource(prompt, options.recipe),
    model: options.model ?? "",
    overrides: ruleMessages(options.overrides ?? [], "overrides"),
    logprobs: { top: options.logprobs ?? 0 },
    constraint: constraint && constraintMessage(constraint, "constraint"),
    continuation:
      typeof continuation === "string"
        ? { case: "text", value: continuation }
        : { case: "tokenIds", value: { ids: continuation as number[] } },
  };
}

/** Write a request for the tokens of a text, or of the prompts a recipe makes of `prompt`. */
export function tokenizeRequest(
  source: string | { readonly prompt: Prompt },
  options: TokenizeOptions,
): MessageInitShape<typeof TokenizeRequestSchema> {
  const model = options.model ?? "";
  if (typeof source === "string") {
    return { model, source: { case: "text", value: source } };
  }
  if (typeof source !== "object" || source === null || !("prompt" in source)) {
    throw invalidField("source", "tokenize takes either a text or a prompt");
  }
  const value = promptSource(source.prompt, options.recipe);
  return { model, source: { case: "prompt", value } };
}

/** Write a recipe's name or document, if there is one; `field` is the message that holds it. */
export function recipeSource(
  recipe: string | RecipeDocument | undefined,
  field: string,
): NonNullable<Spec["recipeSource"]> {
  if (recipe === undefined || recipe === "") {
    return { case: undefined };
  }
  return typeof recipe === "string"
    ? { case: "recipe", value: recipe }
    : { case: "inlineRecipe", value: recipeMessage(recipe, `${field}.inline_recipe`) };
}

function promptSource(prompt: Prompt, recipe: string | RecipeDocument | undefined): Source {
  return {
    recipeSource: recipeSource(recipe, "prompt"),
    input: promptInput(prompt, "prompt"),
  };
}

/** Return a request id that nobody else makes. */
export function newRequestId(): string {
  return randomUUID().replaceAll("-", "");
}

function priority(name: string | undefined): Priority {
  const found = name === undefined ? Priority.UNSPECIFIED : PRIORITIES.get(name);
  if (found === undefined) {
    throw new InvalidRequest("priority is low, normal or high", { field: "spec.priority" });
  }
  return found;
}

function seed(value: number | bigint | undefined): bigint | undefined {
  if (value === undefined || typeof value === "bigint") {
    return value;
  }
  if (!Number.isSafeInteger(value)) {
    throw invalidField("spec.seed", `a whole number, beyond 53 bits a bigint, not ${shown(value)}`);
  }
  return BigInt(value);
}
