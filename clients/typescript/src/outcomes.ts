import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { invalidField } from "./errors.js";
import type { OutcomeSchema } from "./gen/bosal/v1/experiment_pb.js";
import { shown } from "./params.js";

/** Something that happened after an exposure; it names the exposure or the unit. */
export interface Outcome {
  readonly name: string;
  readonly value: number | boolean;
  readonly exposureId?: string | undefined;
  readonly unit?: string | undefined;
  /** Left out: one outcome of this name for each exposure. */
  readonly idempotencyKey?: string | undefined;
  readonly at?: Date | undefined;
}

/** Write an outcome; `field` is where it goes in the request. */
export function outcomeMessage(
  outcome: Outcome,
  field: string,
): MessageInitShape<typeof OutcomeSchema> {
  const { name, value, exposureId, unit, at } = outcome;
  if (typeof value !== "number" && typeof value !== "boolean") {
    throw invalidField(`${field}.value`, `a number, true or false, not ${shown(value)}`);
  }
  if (at !== undefined && !(at instanceof Date && Number.isFinite(at.getTime()))) {
    throw invalidField(`${field}.at`, `a Date, not ${shown(at)}`);
  }
  return {
    name,
    target: exposureId
      ? { case: "exposureId", value: exposureId }
      : unit
        ? { case: "unitId", value: unit }
        : { case: undefined },
    value:
      typeof value === "boolean" ? { case: "truth", value } : { case: "number", value },
    idempotencyKey: outcome.idempotencyKey ?? "",
    at: at && timestampFromDate(at),
  };
}
