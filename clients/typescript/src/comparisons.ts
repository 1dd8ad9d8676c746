/** Comparisons of recipes: how one is asked for, and what comes back. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import { ruleMessages, type RecipeDocument, type RuleDocument } from "./documents.js";
import { InternalError, InvalidRequest } from "./errors.js";
import { Feed } from "./feed.js";
import {
  DivergenceSchema,
  TokenBatchSchema,
  type CompareRequestSchema,
  type CompareResponse,
  type Divergence as DivergenceMessage,
} from "./gen/bosal/v1/generation_pb.js";
import type { Incoming } from "./incoming.js";
import { mirror, type Mirror } from "./mirror.js";
import { isPlain } from "./params.js";
import type { Prompt } from "./prompts.js";
import { generationSpec, recipeSource, type GenerationOptions } from "./requests.js";
import { finished, started } from "./responses.js";
import type { Generation, TokenBatch } from "./results.js";
import { Transcript } from "./transcript.js";

/** A recipe of a comparison, and overrides of its own. */
export interface ComparedRecipe {
  /** `name`, `name@version` or a document; left out, the server's default. */
  readonly recipe?: string | RecipeDocument | undefined;
  readonly overrides?: Iterable<RuleDocument> | undefined;
}

/** Tokens of one of the compared recipes, counted from 0. */
export interface RecipeTokens {
  readonly kind: "tokens";
  readonly recipe: number;
  readonly tokens: TokenBatch;
}

/** Where a recipe's output first differs from the first recipe's; no position: nowhere. */
export interface Divergence extends Mirror<DivergenceMessage> {
  readonly kind: "divergence";
}

/** Every recipe's answer, and where each but the first leaves the first. */
export interface Comparison {
  readonly generations: readonly Generation[];
  readonly divergences: readonly Divergence[];
}

/** Write a request; a value the wire cannot hold is an error that names its field. */
export function compareRequest(
  prompt: Prompt,
  recipes: Iterable<string | RecipeDocument | ComparedRecipe>,
  options: GenerationOptions,
): MessageInitShape<typeof CompareRequestSchema> & { recipes: unknown[] } {
  if (typeof recipes !== "object" || recipes === null || !(Symbol.iterator in recipes)) {
    throw new InvalidRequest("recipes: a list of 2 to 8 recipes, not one", { field: "recipes" });
  }
  return {
    spec: generationSpec(prompt, options),
    recipes: Array.from(recipes, (one, place) => {
      const field = `recipes[${place}]`;
      const { recipe, overrides } = isCompared(one) ? one : { recipe: one, overrides: [] };
      return {
        recipeSource: recipeSource(recipe, field),
        overrides: ruleMessages(overrides ?? [], `${field}.overrides`),
      };
    }),
  };
}

function isCompared(one: string | RecipeDocument | ComparedRecipe): one is ComparedRecipe {
  // A document has neither.
  return isPlain(one) && ("recipe" in one || "overrides" in one);
}

/**
 * A comparison under way: iterate over tokens and divergences, or await `result()`.
 *
 * Leaving the loop early cancels it, and so does leaving a block with `using`.
 */
export class ComparisonStream implements AsyncIterable<RecipeTokens | Divergence> {
  readonly #feed: Feed<CompareResponse, RecipeTokens | Divergence>;
  readonly #transcripts: readonly Transcript[];
  readonly #divergences = new Map<number, Divergence>();

  constructor(incoming: Incoming<CompareResponse>, numRecipes: number) {
    this.#transcripts = Array.from({ length: numRecipes }, () => new Transcript());
    this.#feed = new Feed(
      incoming,
      (message) => this.#take(message),
      () => {
        const isWhole = this.#transcripts.every((one) => one.isWhole);
        if (!isWhole || this.#divergences.size < numRecipes - 1) {
          throw new InternalError("the server ended the comparison early");
        }
      },
    );
  }

  [Symbol.asyncIterator](): AsyncGenerator<RecipeTokens | Divergence, void> {
    return this.#feed[Symbol.asyncIterator]();
  }

  /** Wait for the end and return everything, what was iterated over included. */
  async result(): Promise<Comparison> {
    await this.#feed.end();
    const places = [...this.#divergences.keys()].sort((a, b) => a - b);
    return {
      generations: this.#transcripts.map((one) => one.result()),
      divergences: places.map((place) => this.#divergences.get(place)!),
    };
  }

  /** Stop generating; further reads throw Cancelled. */
  cancel(): void {
    this.#feed.cancel();
  }

  [Symbol.dispose](): void {
    this.cancel();
  }

  /** Take an event; return it if it is one to look at while it runs. */
  #take({ event }: CompareResponse): RecipeTokens | Divergence | undefined {
    switch (event.case) {
      case "started":
        this.#of(event.value).started = started(event.value.started!);
        return undefined;
      case "tokens": {
        const tokens = mirror(TokenBatchSchema, event.value.tokens!);
        this.#of(event.value).batches.push(tokens);
        return { kind: "tokens", recipe: event.value.recipe, tokens };
      }
      case "finished":
        this.#of(event.value).finished = finished(event.value.finished!);
        return undefined;
      case "divergence": {
        const divergence: Divergence = {
          kind: "divergence",
          ...mirror(DivergenceSchema, event.value),
        };
        this.#divergences.set(divergence.recipe, divergence);
        return divergence;
      }
      default:
        // A newer server's.
        return undefined;
    }
  }

  #of({ recipe }: { readonly recipe: number }): Transcript {
    const found = this.#transcripts[recipe];
    if (found === undefined) {
      throw new InternalError(`the server tells of recipe ${recipe}, which was not asked for`);
    }
    return found;
  }
}
