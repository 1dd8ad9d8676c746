/** Experiments as documents people write, as the wire's messages. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import { recipeMessage, type RecipeDocument } from "./documents.js";
import { Fields, PPM } from "./fields.js";
import {
  AnalysisMethodSchema,
  MetricDirectionSchema,
  MetricKindSchema,
  MetricRoleSchema,
  type ExperimentSchema,
  type MetricSchema,
  type VariantSchema,
} from "./gen/bosal/v1/experiment_pb.js";

/** A recipe that is run again under a share of the control's requests, and served to nobody. */
export interface ShadowDocument {
  readonly key: string;
  /** `name`, `name@version` or a document. */
  readonly recipe?: string | RecipeDocument | undefined;
}

/** A recipe under test. */
export interface VariantDocument extends ShadowDocument {
  /** A share from 0 to 1. */
  readonly weight?: number | undefined;
  readonly control?: boolean | undefined;
}

/** A quantity that variants are compared by. */
export interface MetricDocument {
  readonly name: string;
  readonly kind?: "mean" | "proportion" | "ratio" | "quantile" | "above" | undefined;
  readonly outcome?: string | undefined;
  readonly denominator?: string | undefined;
  readonly level?: number | undefined;
  readonly threshold?: number | undefined;
  readonly direction?: "increase" | "decrease" | undefined;
  readonly role?: "primary" | "guardrail" | "secondary" | undefined;
  readonly margin?: number | undefined;
  /** As a share of the control's value. */
  readonly relative_margin?: number | undefined;
  readonly covariate?: string | undefined;
}

/** An experiment as a file has it, in the file's own names: shares are numbers from 0 to 1. */
export interface ExperimentDocument {
  readonly name: string;
  readonly description?: string | undefined;
  readonly unit_kind?: string | undefined;
  readonly variants: readonly VariantDocument[];
  readonly metrics: readonly MetricDocument[];
  readonly namespace?:
    | { readonly name: string; readonly low?: number; readonly high?: number }
    | undefined;
  readonly alpha?: number | undefined;
  readonly planned_units?: number | undefined;
  readonly min_units?: number | undefined;
  readonly method?: "sequential" | "fixed" | undefined;
  readonly coverage?: number | undefined;
  readonly retention_days?: number | undefined;
  readonly text_retention_days?: number | undefined;
  readonly max_failures_per_minute?: number | undefined;
  readonly shadows?: readonly ShadowDocument[] | undefined;
  readonly shadow_share?: number | undefined;
  readonly compare_draws?: boolean | undefined;
}

const SHADOW = ["key", "recipe"];
const VARIANT = [...SHADOW, "weight", "control"];
const NAMESPACE = ["name", "low", "high"];
const METRIC = [
  "name",
  "kind",
  "outcome",
  "denominator",
  "level",
  "threshold",
  "direction",
  "role",
  "margin",
  "relative_margin",
  "covariate",
];
const EXPERIMENT = [
  "name",
  "description",
  "unit_kind",
  "variants",
  "metrics",
  "namespace",
  "alpha",
  "planned_units",
  "min_units",
  "method",
  "coverage",
  "retention_days",
  "text_retention_days",
  "max_failures_per_minute",
  "shadows",
  "shadow_share",
  "compare_draws",
];

/** Write a document as an experiment; what is unknown or of the wrong kind is named. */
export function experimentMessage(
  document: ExperimentDocument,
): MessageInitShape<typeof ExperimentSchema> {
  const read = new Fields(document, EXPERIMENT, "");
  const namespace = read.given("namespace");
  return {
    name: read.text("name") ?? "",
    description: read.text("description") ?? "",
    unitKind: read.text("unit_kind") ?? "",
    variants: read.list("variants").map((one, at) => variant(one, VARIANT, `variants[${at}]`)),
    metrics: read.list("metrics").map((one, at) => metric(one, `metrics[${at}]`)),
    shadows: read.list("shadows").map((one, at) => variant(one, SHADOW, `shadows[${at}]`)),
    maxFailuresPerMinute: read.whole("max_failures_per_minute") ?? 0,
    shadowSharePpm: read.share("shadow_share") ?? 0,
    compareDraws: read.flag("compare_draws") ?? false,
    method: read.choice("method", AnalysisMethodSchema),
    alpha: read.number("alpha"),
    plannedUnits: read.whole("planned_units"),
    minUnits: read.whole("min_units"),
    coveragePpm: read.share("coverage"),
    retention: read.days("retention_days"),
    textRetention: read.days("text_retention_days"),
    namespace: namespace === undefined ? undefined : space(namespace),
  };
}

function variant(
  document: unknown,
  known: readonly string[],
  field: string,
): MessageInitShape<typeof VariantSchema> {
  const read = new Fields(document, known, field);
  const recipe = read.given("recipe") ?? "";
  return {
    key: read.text("key") ?? "",
    recipeSource:
      typeof recipe === "string"
        ? { case: "recipe", value: recipe }
        : {
            case: "inlineRecipe",
            value: recipeMessage(recipe as RecipeDocument, `${field}.recipe`),
          },
    weightPpm: read.share("weight") ?? 0,
    isControl: read.flag("control") ?? false,
  };
}

function metric(document: unknown, field: string): MessageInitShape<typeof MetricSchema> {
  const read = new Fields(document, METRIC, field);
  const relative = read.number("relative_margin");
  return {
    name: read.text("name") ?? "",
    kind: read.choice("kind", MetricKindSchema),
    outcome: read.text("outcome") ?? "",
    denominator: read.text("denominator") ?? "",
    level: read.number("level") ?? 0,
    threshold: read.number("threshold") ?? 0,
    direction: read.choice("direction", MetricDirectionSchema),
    role: read.choice("role", MetricRoleSchema),
    margin: relative ?? read.number("margin") ?? 0,
    isMarginRelative: relative !== undefined,
    covariate: read.text("covariate") ?? "",
  };
}

function space(document: unknown): { name: string; lowPpm: number; highPpm: number } {
  const read = new Fields(document, NAMESPACE, "namespace");
  return {
    name: read.text("name") ?? "",
    lowPpm: read.share("low") ?? 0,
    highPpm: read.share("high") ?? PPM,
  };
}
