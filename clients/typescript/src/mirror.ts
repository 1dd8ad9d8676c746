/** Reads messages as plain values whose types follow from the contract's. */

import {
  ScalarType,
  type DescEnum,
  type DescField,
  type DescMessage,
  type JsonObject,
  type Message,
  type MessageShape,
} from "@bufbuild/protobuf";
import { timestampDate, type Duration, type Timestamp } from "@bufbuild/protobuf/wkt";
import { constraintDocument, type ConstraintDocument } from "./constraints.js";
import {
  recipeDocument,
  ruleDocument,
  type RecipeDocument,
  type RuleDocument,
} from "./documents.js";
import { seconds } from "./durations.js";
import { InternalError } from "./errors.js";
import type {
  AnalysisMethod,
  AssignmentReason,
  ExperimentState,
  MetricDirection,
  MetricKind,
  MetricRole,
  OutcomeStatus,
} from "./gen/bosal/v1/experiment_pb.js";
import type { DivergenceCause, FinishReason, Shift } from "./gen/bosal/v1/generation_pb.js";
import type { Constraint, Recipe, RecipeSource, Rule } from "./gen/bosal/v1/recipe_pb.js";
import type { HealthCheckResponse_ServingStatus } from "./gen/grpc_health/v1/health_pb.js";
import { readParams } from "./params.js";

/** Enumerations that calls return, by themselves and by the names of their values. */
type Enums =
  | [AnalysisMethod, typeof AnalysisMethod]
  | [AssignmentReason, typeof AssignmentReason]
  | [DivergenceCause, typeof DivergenceCause]
  | [ExperimentState, typeof ExperimentState]
  | [FinishReason, typeof FinishReason]
  | [HealthCheckResponse_ServingStatus, typeof HealthCheckResponse_ServingStatus]
  | [MetricDirection, typeof MetricDirection]
  | [MetricKind, typeof MetricKind]
  | [MetricRole, typeof MetricRole]
  | [OutcomeStatus, typeof OutcomeStatus]
  | [RecipeSource, typeof RecipeSource]
  | [Shift, typeof Shift];

type Names<Values, Pair = Enums> = Pair extends [infer Each, infer Named]
  ? Values extends Each
    ? Lowercase<Exclude<keyof Named, "UNSPECIFIED"> & string>
    : never
  : never;

/** The name of a value in small letters; "" says nothing, and a newer server may say more. */
export type EnumName<Values> = "" | Names<Values> | (string & {});

type Value<T> = T extends Timestamp
  ? Date
  : T extends Duration
    ? number
    : T extends Recipe
      ? RecipeDocument
      : T extends Rule
        ? RuleDocument
        : T extends Constraint
          ? ConstraintDocument
          : T extends Message
            ? Mirror<T>
            : T extends Uint8Array | string | boolean
              ? T
              : T extends bigint
                ? number
                : T extends number
                  ? // A number may be anything, an enumeration's value may not.
                    999 extends T
                    ? number
                    : EnumName<T>
                  : T extends readonly (infer Item)[]
                    ? readonly Value<Item>[]
                    : JsonObject extends T
                      ? T
                      : T extends Record<string, infer Item>
                        ? Readonly<Record<string, Value<Item>>>
                        : never;

type Oneof = { case: string | undefined };
type Member<T> = Extract<T[keyof T], { case: string; value: unknown }>;

/**
 * What a message holds as plain values: enumerations are names, times are `Date`, durations are
 * seconds, recipes and rules are documents, the one that is set of several is a field beside the
 * others. Counts are numbers; a seed uses all its 64 bits and is a bigint.
 */
export type Mirror<T> = {
  readonly [Key in keyof T as Key extends `$${string}`
    ? never
    : T[Key] extends Oneof
      ? never
      : Key]: Key extends "seed" ? T[Key] : Value<T[Key]>;
} & { readonly [One in Member<T> as One["case"]]?: Value<One["value"]> };

/** A mirror of a message some of whose fields are always set. */
export type Present<T, Keys extends keyof T = keyof T> = Omit<T, Keys> & {
  readonly [Key in Keys]-?: NonNullable<T[Key]>;
};

/** Read a message as plain values. */
export function mirror<Desc extends DescMessage>(
  schema: Desc,
  message: MessageShape<Desc>,
): Mirror<MessageShape<Desc>> {
  const found: Record<string, unknown> = {};
  for (const field of schema.fields) {
    const value = held(field, message);
    if (value !== undefined) {
      found[field.localName] = plain(field, value);
    }
  }
  return found as Mirror<MessageShape<Desc>>;
}

/** Return the name of an enumeration's value in small letters. */
export function enumName<Values extends number>(schema: DescEnum, number: Values): EnumName<Values> {
  const name = schema.value[number]?.localName.toLowerCase() ?? `unknown_${number}`;
  return name === "unspecified" ? "" : name;
}

/** Return the numbers of an enumeration's values by their names; the unspecified one has none. */
export function enumNames(schema: DescEnum): ReadonlyMap<unknown, number> {
  return new Map(
    schema.values
      .filter(({ number }) => number !== 0)
      .map(({ localName, number }) => [localName.toLowerCase(), number]),
  );
}

/** Return what a field holds; undefined if it is unset. */
export function held(field: DescField, message: Message): unknown {
  const values = message as unknown as Record<string, unknown>;
  if (field.oneof === undefined) {
    return values[field.localName];
  }
  const chosen = values[field.oneof.localName] as { case?: string; value?: unknown };
  return chosen.case === field.localName ? chosen.value : undefined;
}

function plain(field: DescField, value: unknown): unknown {
  switch (field.fieldKind) {
    case "list":
      return (value as readonly unknown[]).map((item) => single(field, field.listKind, item));
    case "map":
      return Object.fromEntries(
        Object.entries(value as Record<string, unknown>).map(([key, item]) => [
          key,
          single(field, field.mapKind, item),
        ]),
      );
    default:
      return single(field, field.fieldKind, value);
  }
}

function single(field: DescField, kind: "scalar" | "enum" | "message", value: unknown): unknown {
  if (kind === "message") {
    return messageValue(field.message!, value as Message);
  }
  if (kind === "enum") {
    return enumName(field.enum!, value as number);
  }
  if (typeof value !== "bigint" || field.scalar === ScalarType.INT64) {
    return value;
  }
  if (value > Number.MAX_SAFE_INTEGER) {
    throw new InternalError(`${field.name}: ${value} is more than a number can hold`);
  }
  return Number(value);
}

function messageValue(schema: DescMessage, value: Message): unknown {
  switch (schema.typeName) {
    case "google.protobuf.Timestamp":
      return timestampDate(value as Timestamp);
    case "google.protobuf.Duration":
      return seconds(value as Duration);
    case "google.protobuf.Struct":
      return readParams(value as unknown as JsonObject);
    case "bosal.v1.Recipe":
      return recipeDocument(value as Recipe);
    case "bosal.v1.Rule":
      return ruleDocument(value as Rule);
    case "bosal.v1.Constraint":
      return constraintDocument(value as Constraint);
    default:
      return mirror(schema, value);
  }
}
