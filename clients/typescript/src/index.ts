/** A TypeScript client of a Bosal server, for Node. */

export type { CallOptions } from "./channel.js";
export { Client, type ClientOptions, type ResponseModel } from "./client.js";
export {
  ComparisonStream,
  type ComparedRecipe,
  type Comparison,
  type Divergence,
  type RecipeTokens,
} from "./comparisons.js";
export type { ConstraintDocument } from "./constraints.js";
export type {
  CompiledRule,
  Limits,
  Model,
  Recipe,
  Rule,
  ServerInfo,
  Validation,
} from "./descriptions.js";
export type { RecipeDocument, RuleDocument, ScaffoldDocument } from "./documents.js";
export {
  BosalError,
  Cancelled,
  DeadlineExceeded,
  IncompleteAnswer,
  InternalError,
  InvalidRequest,
  NotFound,
  Overloaded,
  PermissionDenied,
  Unauthenticated,
  Unavailable,
  Unimplemented,
  type FieldViolation,
} from "./errors.js";
export type {
  ExperimentDocument,
  MetricDocument,
  ShadowDocument,
  VariantDocument,
} from "./experimentDocuments.js";
export { Experiments, type ChangeOptions, type PlanOptions, type StartOptions } from "./experiments.js";
export type { Identity } from "./identity.js";
export type { Outcome } from "./outcomes.js";
export { assistant, user, type Message, type Prompt } from "./prompts.js";
export type {
  Assignment,
  AuditEvent,
  Experiment,
  OutcomeResult,
  Plan,
  Records,
  Removed,
  Report,
} from "./reports.js";
export type { GenerationOptions, ScoreOptions, TokenizeOptions } from "./requests.js";
export {
  decidingRules,
  type Choice,
  type Ending,
  type Explanation,
  type ExplanationSummary,
  type Finished,
  type Generation,
  type Logprobs,
  type RuleEffect,
  type Score,
  type Started,
  type Timings,
  type TokenBatch,
  type TokenSequence,
  type TopLogprobs,
  type Usage,
} from "./results.js";
export { Stream } from "./streams.js";
