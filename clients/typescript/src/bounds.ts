/** What the wire can hold, checked before anything is sent. */

import { ScalarType, type DescField, type DescMessage, type Message } from "@bufbuild/protobuf";
import { invalidField } from "./errors.js";
import { held } from "./mirror.js";
import { shown } from "./params.js";

const LOW_INT64 = -(2n ** 63n);
const HIGH_INT64 = 2n ** 63n - 1n;
const HIGH_UINT32 = 2 ** 32 - 1;

/** Refuse a message with a value its field cannot hold, by the field's path in the request. */
export function checkBounds(schema: DescMessage, message: Message, path = ""): void {
  for (const field of schema.fields) {
    const value = held(field, message);
    if (value === undefined) {
      continue;
    }
    const where = path ? `${path}.${field.name}` : field.name;
    if (field.fieldKind === "list") {
      if (!Array.isArray(value)) {
        throw invalidField(where, `must be a list, not ${shown(value)}`);
      }
      value.forEach((item: unknown, index) => checkValue(field, item, `${where}[${index}]`));
    } else if (field.fieldKind === "map") {
      for (const [key, item] of Object.entries(value as Record<string, unknown>)) {
        checkScalar(ScalarType.STRING, key, where);
        checkValue(field, item, `${where}.${key}`);
      }
    } else {
      checkValue(field, value, where);
    }
  }
}

function checkValue(field: DescField, value: unknown, where: string): void {
  if (field.scalar !== undefined) {
    checkScalar(field.scalar, value, where);
  } else if (field.message?.typeName === "google.protobuf.Struct") {
    checkTexts(value, where);
  } else if (field.message !== undefined) {
    checkBounds(field.message, value as Message, where);
  }
}

function checkScalar(scalar: ScalarType, value: unknown, where: string): void {
  switch (scalar) {
    case ScalarType.STRING:
      if (typeof value !== "string") {
        throw invalidField(where, `a text, not ${shown(value)}`);
      }
      checkText(value, where);
      break;
    case ScalarType.BOOL:
      if (typeof value !== "boolean") {
        throw invalidField(where, `true or false, not ${shown(value)}`);
      }
      break;
    case ScalarType.UINT32:
      if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > HIGH_UINT32) {
        throw invalidField(where, `a whole number from 0 to ${HIGH_UINT32}, not ${shown(value)}`);
      }
      break;
    case ScalarType.INT64:
      if (typeof value !== "bigint" || value < LOW_INT64 || value > HIGH_INT64) {
        throw invalidField(where, `a whole number of 64 bits, not ${shown(value)}`);
      }
      break;
    case ScalarType.DOUBLE:
      if (typeof value !== "number") {
        throw invalidField(where, `a number, not ${shown(value)}`);
      }
  }
}

function checkTexts(value: unknown, where: string): void {
  if (typeof value === "string") {
    checkText(value, where);
  } else if (Array.isArray(value)) {
    value.forEach((item) => checkTexts(item, where));
  } else if (typeof value === "object" && value !== null) {
    for (const [name, item] of Object.entries(value)) {
      checkText(name, where);
      checkTexts(item, where);
    }
  }
}

function checkText(text: string, where: string): void {
  // The encoder would put another character in its place.
  const place = text.search(/\p{Surrogate}/u);
  if (place >= 0) {
    throw invalidField(where, `half a character at ${place}: it is not Unicode`);
  }
}
