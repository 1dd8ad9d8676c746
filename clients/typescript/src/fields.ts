import type { DescEnum } from "@bufbuild/protobuf";
import { duration } from "./durations.js";
import { invalidField } from "./errors.js";
import { enumNames } from "./mirror.js";
import { isPlain, shown } from "./params.js";

export const PPM = 1_000_000;
const DAY = 86_400;
// More than any server keeps.
const MAX_DAYS = 1_000_000;

/** Write a share from 0 to 1 in millionths, as the wire has it. */
export function share(value: unknown, field: string): number {
  if (typeof value !== "number" || !(value >= 0 && value <= 1)) {
    throw invalidField(field, `a share from 0 to 1, not ${shown(value)}`);
  }
  return Math.round(value * PPM);
}

/** The fields of one mapping in a document; each is read by the kind it must be of. */
export class Fields {
  readonly #document: Readonly<Record<string, unknown>>;
  readonly #path: string;

  constructor(document: unknown, known: readonly string[], path: string) {
    if (!isPlain(document)) {
      throw invalidField(path || "experiment", "must be a mapping of names to values");
    }
    this.#document = { ...document };
    this.#path = path;
    const unknown = Object.keys(document).find((name) => !known.includes(name));
    if (unknown !== undefined) {
      throw invalidField(this.#at(unknown), `no such field, known: ${known.join(", ")}`);
    }
  }

  given(name: string): unknown {
    return this.#document[name];
  }

  text(name: string): string | undefined {
    return this.#of<string>(name, "string", "a text");
  }

  flag(name: string): boolean | undefined {
    return this.#of<boolean>(name, "boolean", "true or false");
  }

  number(name: string): number | undefined {
    return this.#of<number>(name, "number", "a number");
  }

  whole(name: string): number | undefined {
    const value = this.given(name);
    const isWhole = Number.isInteger(value) && (value as number) >= 0;
    if (value !== undefined && !(isWhole && (value as number) < 2 ** 32)) {
      throw invalidField(this.#at(name), `a whole number, not ${shown(value)}`);
    }
    return value as number | undefined;
  }

  share(name: string): number | undefined {
    const value = this.given(name);
    return value === undefined ? undefined : share(value, this.#at(name));
  }

  days(name: string): ReturnType<typeof duration> | undefined {
    const days = this.number(name);
    if (days !== undefined && !(days >= 0 && days <= MAX_DAYS)) {
      throw invalidField(this.#at(name), `a number of days, not ${days}`);
    }
    return days === undefined ? undefined : duration(Math.round(days * DAY));
  }

  list(name: string): readonly unknown[] {
    const value = this.given(name) ?? [];
    if (!Array.isArray(value)) {
      throw invalidField(this.#at(name), "must be a list");
    }
    return value;
  }

  /** Return the number of an enumeration's value; 0 where none is given. */
  choice(name: string, schema: DescEnum): number {
    const value = this.given(name);
    const names = enumNames(schema);
    const number = value === undefined ? 0 : names.get(value);
    if (number === undefined) {
      const known = [...names.keys()].join(", ");
      throw invalidField(this.#at(name), `one of ${known}, not ${shown(value)}`);
    }
    return number;
  }

  #of<Value>(name: string, kind: string, said: string): Value | undefined {
    const value = this.given(name);
    if (value !== undefined && typeof value !== kind) {
      throw invalidField(this.#at(name), `${said}, not ${shown(value)}`);
    }
    return value as Value | undefined;
  }

  #at(name: string): string {
    return this.#path ? `${this.#path}.${name}` : name;
  }
}
