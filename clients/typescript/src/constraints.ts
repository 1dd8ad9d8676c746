/** Constraints: a hard language the output must belong to. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import { invalidField } from "./errors.js";
import type { Constraint, ConstraintSchema } from "./gen/bosal/v1/recipe_pb.js";
import { isPlain, shown } from "./params.js";

interface ConstraintOptions {
  readonly backend?: string | undefined;
  readonly whitespace?: "bounded" | "compact" | "free" | undefined;
  /** Leave out schema keywords that cannot be enforced, and validate the finished text. */
  readonly allow_unsupported?: boolean | undefined;
  readonly rules_in_strings?: boolean | undefined;
}

/** A constraint as a recipe's document has it. */
export type ConstraintDocument = ConstraintOptions &
  (
    | { readonly choice: readonly string[] }
    | { readonly regex: string }
    /** A schema, or its JSON text: the order of properties is the order they are written in. */
    | { readonly json_schema: string | Readonly<Record<string, unknown>> }
    | { readonly grammar: string; readonly syntax?: "lark" | "gbnf" | undefined }
    /** A type that the server's operator has registered under this name. */
    | { readonly python_type: string }
  );

const KINDS = ["choice", "regex", "json_schema", "grammar", "python_type"] as const;
const TEXTS = ["backend", "whitespace", "syntax"] as const;
const FLAGS = ["allow_unsupported", "rules_in_strings"] as const;
const FIELDS: readonly string[] = [...KINDS, "syntax", "backend", "whitespace", ...FLAGS];

/** Write a constraint's document; `field` is where it goes in the request. */
export function constraintMessage(
  document: ConstraintDocument,
  field: string,
): MessageInitShape<typeof ConstraintSchema> {
  if (!isPlain(document)) {
    throw invalidField(field, `must be a mapping with one of ${KINDS.join(", ")}`);
  }
  const given: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(document)) {
    if (!FIELDS.includes(name)) {
      const known = FIELDS.join(", ");
      throw invalidField(`${field}.${name}`, `a constraint has no such field; it has ${known}`);
    }
    if (value !== undefined && value !== null) {
      given[name] = value;
    }
  }
  const kinds = KINDS.filter((kind) => kind in given);
  const [kind] = kinds;
  if (kind === undefined || kinds.length > 1) {
    throw invalidField(field, `needs exactly one of ${KINDS.join(", ")}`);
  }
  for (const name of TEXTS) {
    if (name in given && typeof given[name] !== "string") {
      throw invalidField(`${field}.${name}`, `a text, not ${shown(given[name])}`);
    }
  }
  for (const name of FLAGS) {
    if (name in given && typeof given[name] !== "boolean") {
      throw invalidField(`${field}.${name}`, `true or false, not ${shown(given[name])}`);
    }
  }
  return {
    kind: kindMessage(kind, given, `${field}.${kind}`),
    backend: (given.backend ?? "") as string,
    whitespace: (given.whitespace ?? "") as string,
    allowUnsupported: given.allow_unsupported === true,
    rulesInStrings: given.rules_in_strings === true,
  };
}

type KindMessage = NonNullable<MessageInitShape<typeof ConstraintSchema>["kind"]>;

function kindMessage(
  kind: (typeof KINDS)[number],
  given: Readonly<Record<string, unknown>>,
  field: string,
): KindMessage {
  const value = given[kind];
  if (kind === "choice") {
    if (!Array.isArray(value) || value.some((one) => typeof one !== "string")) {
      throw invalidField(field, "must be a list of texts");
    }
    return { case: "choice", value: { values: value as string[] } };
  }
  if (kind === "json_schema") {
    return { case: "jsonSchema", value: typeof value === "string" ? value : jsonText(value, field) };
  }
  if (typeof value !== "string") {
    throw invalidField(field, `must be text, not ${shown(value)}`);
  }
  switch (kind) {
    case "regex":
      return { case: "regex", value };
    case "grammar":
      return { case: "grammar", value: { text: value, syntax: (given.syntax ?? "") as string } };
    case "python_type":
      return { case: "pythonType", value };
  }
}

function jsonText(value: unknown, field: string): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw invalidField(field, (error as Error).message);
  }
  if (text === undefined) {
    throw invalidField(field, `JSON cannot say ${shown(value)}`);
  }
  return text;
}

/** Read a constraint as the document it stands for; what is unset is left out. */
export function constraintDocument(message: Constraint): ConstraintDocument {
  const document: Record<string, unknown> = {};
  switch (message.kind.case) {
    case "choice":
      document.choice = message.kind.value.values;
      break;
    case "grammar":
      document.grammar = message.kind.value.text;
      if (message.kind.value.syntax) {
        document.syntax = message.kind.value.syntax;
      }
      break;
    case "jsonSchema":
      document.json_schema = message.kind.value;
      break;
    case "pythonType":
      document.python_type = message.kind.value;
      break;
    case "regex":
      document.regex = message.kind.value;
  }
  const options = {
    backend: message.backend,
    whitespace: message.whitespace,
    allow_unsupported: message.allowUnsupported,
    rules_in_strings: message.rulesInStrings,
  };
  const set = Object.entries(options).filter(([, value]) => value);
  return { ...document, ...Object.fromEntries(set) } as unknown as ConstraintDocument;
}
