/** Parameters of rules and scaffolds: what JSON can say, as the wire has it. */

import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { invalidField } from "./errors.js";

// More than any server reads.
const MAX_DEPTH = 100;

/** Write parameters; a value JSON cannot say is an error that names `field`. */
export function writeParams(params: Readonly<Record<string, unknown>>, field: string): JsonObject {
  return written(params, field, 0) as JsonObject;
}

/** Read parameters in the order of their names: the wire keeps none. */
export function readParams(params: JsonObject | undefined): JsonObject {
  return ordered(params ?? {}) as JsonObject;
}

function written(value: unknown, field: string, depth: number): JsonValue {
  if (depth > MAX_DEPTH) {
    throw invalidField(field, "it is nested too deeply");
  }
  switch (typeof value) {
    case "string":
    case "boolean":
      return value;
    case "number":
      if (Number.isFinite(value)) {
        return value;
      }
      break;
    case "object":
      if (value === null) {
        return null;
      }
      if (Array.isArray(value)) {
        return value.map((item) => written(item, field, depth + 1));
      }
      if (isPlain(value)) {
        const given = Object.entries(value).filter(([, item]) => item !== undefined);
        return Object.fromEntries(
          given.map(([name, item]) => [name, written(item, field, depth + 1)]),
        );
      }
  }
  throw invalidField(field, `JSON cannot say ${shown(value)}`);
}

function ordered(value: JsonValue): JsonValue {
  if (Array.isArray(value)) {
    return value.map(ordered);
  }
  if (value === null || typeof value !== "object") {
    return value;
  }
  const names = Object.keys(value).sort();
  return Object.fromEntries(names.map((name) => [name, ordered(value[name]!)]));
}

/** Whether a value is an object of names and values, and no instance of a class. */
export function isPlain(value: unknown): value is object {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Return a short text for messages about a value that is wrong. */
export function shown(value: unknown): string {
  if (typeof value === "string") {
    return JSON.stringify(value.slice(0, 60));
  }
  if (typeof value === "object" && value !== null) {
    return Array.isArray(value) ? "a list" : `a ${value.constructor?.name ?? "mapping"}`;
  }
  return String(value).slice(0, 60);
}
