import type { ChannelCredentials } from "@grpc/grpc-js";
import { Channel, type CallOptions } from "./channel.js";
import {
  ComparisonStream,
  compareRequest,
  type ComparedRecipe,
} from "./comparisons.js";
import { DEFAULT_SERVER, channelOptions, headers } from "./connection.js";
import * as descriptions from "./descriptions.js";
import { recipeMessage, type RecipeDocument } from "./documents.js";
import { IncompleteAnswer } from "./errors.js";
import { Experiments } from "./experiments.js";
import { GenerationService, TokenSequenceSchema } from "./gen/bosal/v1/generation_pb.js";
import { ModelService } from "./gen/bosal/v1/model_pb.js";
import { RecipeService } from "./gen/bosal/v1/recipe_pb.js";
import {
  Health,
  HealthCheckResponse_ServingStatusSchema,
  type HealthCheckResponse_ServingStatus,
} from "./gen/grpc_health/v1/health_pb.js";
import { channelCredentials, identityFromEnvironment, type Identity } from "./identity.js";
import { enumName, mirror, type EnumName } from "./mirror.js";
import { paged } from "./pages.js";
import type { Prompt } from "./prompts.js";
import {
  generationSpec,
  scoreRequest,
  tokenizeRequest,
  type GenerationOptions,
  type ScoreOptions,
  type TokenizeOptions,
} from "./requests.js";
import * as responses from "./responses.js";
import type { Generation, Score, TokenSequence } from "./results.js";
import { Stream } from "./streams.js";

/** Where a client connects, and as whom. */
export interface ClientOptions extends Identity {
  /** `HOST:PORT`; left out, 127.0.0.1:50051. */
  readonly server?: string | undefined;
  /** Seconds a call may take unless it says so itself; left out, as long as it takes. */
  readonly timeout?: number | undefined;
  /**
   * Seconds for which a call that the server has no room or quota for is tried again, when the
   * server says so and within its timeout; left out, it is not.
   */
  readonly retrySeconds?: number | undefined;
  /** Instead of TLS files. */
  readonly credentials?: ChannelCredentials | undefined;
}

/** What an answer is to be: the JSON Schema that constrains it, and how its JSON is read. */
export interface ResponseModel<Answer> {
  /** As a document, or as JSON text. */
  readonly jsonSchema: string | Readonly<Record<string, unknown>>;
  parse(value: unknown): Answer;
}

const WHOLE: readonly string[] = ["constraint_complete", "constraint_closed", "stop_token"];

const generation = GenerationService.method;
const recipes = RecipeService.method;
const models = ModelService.method;

/**
 * Talks to one server; many calls may run at once. Close it, or leave its block with `using`.
 *
 * Every call takes `timeout` in seconds and an `AbortSignal`. What the server has no room or quota
 * for it refuses at once, and says when to try again: with `retrySeconds` a call does so by itself.
 */
export class Client {
  /** A/B tests of recipes. */
  readonly experiments: Experiments;
  readonly #channel: Channel;

  constructor(options: ClientOptions = {}) {
    const { server = DEFAULT_SERVER, apiKey = "", timeout } = options;
    this.#channel = new Channel(
      server,
      options.credentials ?? channelCredentials(options),
      channelOptions(server),
      headers(apiKey),
      timeout,
      options.retrySeconds,
    );
    this.experiments = new Experiments(this.#channel);
  }

  /**
   * Connect as BOSAL_SERVER, BOSAL_API_KEY, BOSAL_TLS_CA, BOSAL_CLIENT_CERTIFICATE and
   * BOSAL_CLIENT_KEY say, where `options` do not.
   */
  static fromEnvironment(options: ClientOptions = {}): Client {
    const server = process.env.BOSAL_SERVER || undefined;
    return new Client({ server, ...identityFromEnvironment(process.env), ...options });
  }

  /** Return every choice when all are finished. */
  async generate(prompt: Prompt, options: GenerationOptions = {}): Promise<Generation> {
    const request = { spec: generationSpec(prompt, options) };
    return responses.generation(await this.#channel.unary(generation.generate, request, options));
  }

  /** Return the answer as what `model` makes of it; a cut off one throws IncompleteAnswer. */
  async generateAs<Answer>(
    model: ResponseModel<Answer>,
    prompt: Prompt,
    options: Omit<GenerationOptions, "constraint" | "numChoices"> = {},
  ): Promise<Answer> {
    if ("constraint" in options || "numChoices" in options) {
      throw new TypeError("generateAs takes neither 'constraint' nor 'numChoices'");
    }
    const constraint = { json_schema: model.jsonSchema };
    const [choice] = (await this.generate(prompt, { ...options, constraint })).choices;
    const { text, finishReason } = choice!;
    if (!WHOLE.includes(finishReason)) {
      const why = `the answer is not whole: it ended with ${finishReason}`;
      throw new IncompleteAnswer(why, text);
    }
    try {
      return model.parse(JSON.parse(text));
    } catch (error) {
      throw new IncompleteAnswer(`the answer is not what it was to be: ${error}`, text, error);
    }
  }

  /** Return an iterable over token batches as they come. */
  stream(prompt: Prompt, options: GenerationOptions = {}): Stream {
    const spec = generationSpec(prompt, options);
    const incoming = this.#channel.stream(generation.generateStream, { spec }, options);
    return new Stream(incoming, spec.requestId!);
  }

  /** Run one prompt through 2 to 8 recipes under the same noise. */
  compare(
    prompt: Prompt,
    recipes: Iterable<string | RecipeDocument | ComparedRecipe>,
    options: GenerationOptions = {},
  ): ComparisonStream {
    const request = compareRequest(prompt, recipes, options);
    const incoming = this.#channel.stream(generation.compare, request, options);
    return new ComparisonStream(incoming, request.recipes.length);
  }

  /** Return the log-probabilities of an answer, given as text or as tokens. */
  async score(
    prompt: Prompt,
    continuation: string | readonly number[],
    options: ScoreOptions = {},
  ): Promise<Score> {
    const request = scoreRequest(prompt, continuation, options);
    return responses.score(await this.#channel.unary(generation.score, request, options));
  }

  /** Return a text's tokens, or those of the prompts a recipe makes of `{prompt}`. */
  async tokenize(
    source: string | { readonly prompt: Prompt },
    options: TokenizeOptions = {},
  ): Promise<readonly TokenSequence[]> {
    const request = tokenizeRequest(source, options);
    const { sequences } = await this.#channel.unary(generation.tokenize, request, options);
    return sequences.map((one) => mirror(TokenSequenceSchema, one));
  }

  /** Return every recipe in force, by name, or every version of one, the newest first. */
  async recipes(
    options: CallOptions & { readonly versionsOf?: string | undefined } = {},
  ): Promise<readonly descriptions.Recipe[]> {
    const found: descriptions.Recipe[] = [];
    const name = options.versionsOf ?? "";
    const ask = (pageToken: string) =>
      this.#channel.unary(recipes.listRecipes, { name, pageToken }, options);
    for await (const page of paged(ask)) {
      found.push(...page.recipes.map(descriptions.recipe));
    }
    return found;
  }

  /** Return one recipe by `name` or `name@version`. */
  async recipe(name: string, options: CallOptions = {}): Promise<descriptions.Recipe> {
    const { recipe } = await this.#channel.unary(recipes.getRecipe, { name }, options);
    return descriptions.recipe(recipe);
  }

  /** Keep a recipe (a document, or its YAML or JSON text), in force under its name. */
  async createRecipe(
    document: RecipeDocument | string,
    options: CallOptions = {},
  ): Promise<descriptions.Recipe> {
    const request = documentOf(document);
    const { recipe } = await this.#channel.unary(recipes.createRecipe, request, options);
    return descriptions.recipe(recipe);
  }

  /** Take `name`, or `name@version`, out of service; return the versions that went. */
  async archiveRecipe(
    name: string,
    options: CallOptions = {},
  ): Promise<readonly descriptions.Recipe[]> {
    const archived = await this.#channel.unary(recipes.archiveRecipe, { name }, options);
    return archived.recipes.map(descriptions.recipe);
  }

  /** Compile a recipe (a document, or its YAML or JSON text) for a model without running it. */
  async validate(
    document: RecipeDocument | string,
    options: CallOptions & { readonly model?: string | undefined } = {},
  ): Promise<descriptions.Validation> {
    const request = { ...documentOf(document), model: options.model ?? "" };
    const compiled = await this.#channel.unary(recipes.validateRecipe, request, options);
    return descriptions.validation(compiled);
  }

  /** Return the server's catalogue of rules. */
  async rules(options: CallOptions = {}): Promise<readonly descriptions.Rule[]> {
    const { rules } = await this.#channel.unary(recipes.listRules, {}, options);
    return rules.map(descriptions.rule);
  }

  /** Return the served models, the default first. */
  async models(options: CallOptions = {}): Promise<readonly descriptions.Model[]> {
    const answer = await this.#channel.unary(models.listModels, {}, options);
    return answer.models.map(descriptions.model);
  }

  /** Return the server's versions, defaults and limits. */
  async serverInfo(options: CallOptions = {}): Promise<descriptions.ServerInfo> {
    return descriptions.serverInfo(await this.#channel.unary(models.getServerInfo, {}, options));
  }

  /** Return whether the server takes calls: `serving` or `not_serving`. No key is asked for. */
  async health(options: CallOptions = {}): Promise<EnumName<HealthCheckResponse_ServingStatus>> {
    const { status } = await this.#channel.unary(Health.method.check, {}, options);
    return enumName(HealthCheckResponse_ServingStatusSchema, status);
  }

  /** Close the connection; running calls are cancelled. */
  close(): void {
    this.#channel.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function documentOf(document: RecipeDocument | string) {
  return typeof document === "string"
    ? { document }
    : { recipe: recipeMessage(document, "recipe") };
}
