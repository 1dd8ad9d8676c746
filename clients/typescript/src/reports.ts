/** What calls about experiments return; the names are the wire's. */

import { create } from "@bufbuild/protobuf";
import * as pb from "./gen/bosal/v1/experiment_pb.js";
import { mirror, type Mirror, type Present } from "./mirror.js";

/** What a unit is served and why. */
export interface Assignment extends Mirror<pb.Assignment> {}

/** An experiment as it is at its etag; spans are seconds, shares millionths. */
export interface Experiment extends Mirror<pb.Experiment> {}

/** What became of an outcome. */
export interface OutcomeResult extends Mirror<pb.OutcomeResult> {}

/** What is known of one phase, and what may be concluded. */
export interface Report extends Present<Mirror<pb.Report>, "experiment" | "shares"> {}

/** How many units an effect needs to be shown, two equal variants together. */
export interface Plan extends Mirror<pb.PlanExperimentResponse> {}

/** Who changed what and why. */
export interface AuditEvent extends Mirror<pb.AuditEvent> {}

/** Rows that a unit's removal took. */
export interface Removed extends Mirror<pb.DeleteUnitResponse> {}

/** A page of what was recorded: exposures come first, then outcomes, then pairs. */
export interface Records extends Mirror<pb.ExportRecordsResponse> {}

export function experiment(message: pb.Experiment | undefined): Experiment {
  return mirror(pb.ExperimentSchema, message ?? create(pb.ExperimentSchema));
}

export function assignment(message: pb.Assignment | undefined): Assignment {
  return mirror(pb.AssignmentSchema, message ?? create(pb.AssignmentSchema));
}

export function report(message: pb.Report | undefined): Report {
  const found = message ?? create(pb.ReportSchema);
  return {
    ...mirror(pb.ReportSchema, found),
    experiment: experiment(found.experiment),
    shares: mirror(pb.ShareCheckSchema, found.shares ?? create(pb.ShareCheckSchema)),
  };
}
