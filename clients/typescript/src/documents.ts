/** Recipe documents: what a YAML or JSON file holds, as messages and back. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  constraintDocument,
  constraintMessage,
  type ConstraintDocument,
} from "./constraints.js";
import { InvalidRequest, invalidField } from "./errors.js";
import type { Recipe, RecipeSchema, Rule, RuleSchema } from "./gen/bosal/v1/recipe_pb.js";
import { isPlain, readParams, shown, writeParams } from "./params.js";

/** One decoding control: its name, and its parameters beside it. */
export interface RuleDocument {
  readonly rule: string;
  readonly [param: string]: unknown;
}

/** How an instruction becomes a prompt: a kind, and its parameters beside it. */
export interface ScaffoldDocument {
  readonly kind: string;
  readonly [param: string]: unknown;
}

/** A recipe as a file has it, in the file's own names. */
export interface RecipeDocument {
  readonly name?: string | undefined;
  readonly description?: string | undefined;
  readonly scaffold?: ScaffoldDocument | null | undefined;
  readonly rules?: readonly RuleDocument[] | null | undefined;
  readonly constraint?: ConstraintDocument | null | undefined;
}

const FIELDS = ["name", "description", "scaffold", "rules", "constraint"];

/** Write a recipe's document; `field` is where it goes in the request. */
export function recipeMessage(
  document: RecipeDocument,
  field: string,
): MessageInitShape<typeof RecipeSchema> {
  if (!isPlain(document)) {
    throw invalidField(field, `must be a recipe's document, not ${shown(document)}`);
  }
  const unknown = Object.keys(document).find((name) => !FIELDS.includes(name));
  if (unknown !== undefined) {
    throw new InvalidRequest(
      `a recipe has no field ${shown(unknown)}; its fields are ${FIELDS.join(", ")}`,
      { reason: "UNKNOWN_FIELD", field: `${field}.${unknown}` },
    );
  }
  const { scaffold, constraint } = document;
  return {
    name: text(document.name, `${field}.name`),
    description: text(document.description, `${field}.description`),
    rules: ruleMessages(document.rules ?? [], `${field}.rules`),
    scaffold: scaffold ? named(scaffold, "kind", `${field}.scaffold`) : undefined,
    constraint: constraint ? constraintMessage(constraint, `${field}.constraint`) : undefined,
  };
}

/** Write a list of rules; `field` is where it goes in the request. */
export function ruleMessages(
  rules: Iterable<RuleDocument>,
  field: string,
): MessageInitShape<typeof RuleSchema>[] {
  if (typeof rules !== "object" || rules === null || !(Symbol.iterator in rules)) {
    throw invalidField(field, `must be a list of rules, not ${shown(rules)}`);
  }
  return Array.from(rules, (rule, index) => named(rule, "rule", `${field}[${index}]`));
}

/** Read a recipe as the document it stands for; what is unset is left out. */
export function recipeDocument(message: Recipe): RecipeDocument {
  const { name, description, scaffold, rules, constraint } = message;
  return {
    ...(name && { name }),
    ...(description && { description }),
    ...(scaffold && { scaffold: { kind: scaffold.kind, ...readParams(scaffold.params) } }),
    rules: rules.map(ruleDocument),
    ...(constraint && { constraint: constraintDocument(constraint) }),
  };
}

/** Read a rule as its name and, beside it, its parameters. */
export function ruleDocument(message: Rule): RuleDocument {
  return { rule: message.rule, ...readParams(message.params) };
}

function named<Key extends string>(
  document: Readonly<Record<string, unknown>>,
  key: Key,
  field: string,
): Record<Key, string> & { params: ReturnType<typeof writeParams> } {
  if (!isPlain(document)) {
    throw invalidField(field, `must be a mapping with the key '${key}', not ${shown(document)}`);
  }
  const { [key]: name, ...params } = document;
  return {
    [key]: text(name, `${field}.${key}`),
    params: writeParams(params, field),
  } as Record<Key, string> & { params: ReturnType<typeof writeParams> };
}

function text(value: unknown, field: string): string {
  if (value !== undefined && value !== null && typeof value !== "string") {
    throw invalidField(field, `must be text, not ${shown(value)}`);
  }
  return value ?? "";
}
