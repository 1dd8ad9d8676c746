/** What a server says of itself and of its catalogue: models, rules, recipes, limits. */

import { create, type JsonObject } from "@bufbuild/protobuf";
import type { RecipeDocument } from "./documents.js";
import * as modelPb from "./gen/bosal/v1/model_pb.js";
import * as recipePb from "./gen/bosal/v1/recipe_pb.js";
import { mirror, type Mirror, type Present } from "./mirror.js";

/** A recipe the server knows. */
export interface Recipe {
  readonly name: string;
  readonly version: string;
  readonly isDefault: boolean;
  readonly description: string;
  readonly document: RecipeDocument;
  readonly source: Mirror<recipePb.RecipeVersion>["source"];
  /** Of created and of archived recipes. */
  readonly createdAt?: Date;
  readonly archivedAt?: Date;
}

/** What a rule became for one tokenizer. */
export interface CompiledRule extends Omit<Mirror<recipePb.CompiledRule>, "params" | "tokenIds"> {
  readonly params: JsonObject;
  /** For rules over strings: which token ids each string names. */
  readonly tokenIds: Readonly<Record<string, readonly number[]>>;
}

/** The outcome of compiling a recipe for a model. */
export interface Validation
  extends Omit<Mirror<recipePb.ValidateRecipeResponse>, "rules" | "recipe" | "control"> {
  readonly rules: readonly CompiledRule[];
  /** The recipe as the server read it. */
  readonly document: RecipeDocument;
  /** What the rules take per token of one choice; undefined if the server cannot say. */
  readonly controlSeconds?: number;
}

/** One rule of the server's catalogue. */
export interface Rule extends Present<Mirror<recipePb.RuleDescription>, "paramsSchema"> {}

export interface Model extends Mirror<modelPb.Model> {}

/** Enforced before any work. */
export interface Limits extends Mirror<modelPb.Limits> {}

/** Versions, defaults and limits. */
export interface ServerInfo
  extends Present<
    Mirror<modelPb.GetServerInfoResponse>,
    "limits" | "constraints" | "kernels"
  > {}

export function recipe(message: recipePb.RecipeVersion | undefined): Recipe {
  const { recipe: document = {}, createTime, archiveTime, ...rest } = mirror(
    recipePb.RecipeVersionSchema,
    message ?? create(recipePb.RecipeVersionSchema),
  );
  return {
    ...rest,
    name: document.name ?? "",
    description: document.description ?? "",
    document,
    ...(createTime && { createdAt: createTime }),
    ...(archiveTime && { archivedAt: archiveTime }),
  };
}

export function rule(message: recipePb.RuleDescription): Rule {
  return { paramsSchema: {}, ...mirror(recipePb.RuleDescriptionSchema, message) };
}

export function validation(message: recipePb.ValidateRecipeResponse): Validation {
  const { rules, recipe: document, control, ...rest } = mirror(
    recipePb.ValidateRecipeResponseSchema,
    message,
  );
  return {
    ...rest,
    rules: rules.map(({ params, tokenIds, ...one }) => ({
      ...one,
      params: params ?? {},
      tokenIds: Object.fromEntries(
        Object.entries(tokenIds).map(([text, { ids }]) => [text, ids]),
      ),
    })),
    document: document ?? {},
    ...(control !== undefined && { controlSeconds: control }),
  };
}

export function model(message: modelPb.Model): Model {
  return mirror(modelPb.ModelSchema, message);
}

export function serverInfo(message: modelPb.GetServerInfoResponse): ServerInfo {
  const { limits, constraints, kernels, ...rest } = mirror(
    modelPb.GetServerInfoResponseSchema,
    message,
  );
  return {
    ...rest,
    limits: limits ?? mirror(modelPb.LimitsSchema, create(modelPb.LimitsSchema)),
    constraints:
      constraints ??
      mirror(modelPb.ConstraintSupportSchema, create(modelPb.ConstraintSupportSchema)),
    kernels: kernels ?? mirror(modelPb.KernelSupportSchema, create(modelPb.KernelSupportSchema)),
  };
}
