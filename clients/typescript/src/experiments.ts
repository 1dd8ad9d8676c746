/** Calls about experiments: `client.experiments`. */

import type { CallOptions, Channel } from "./channel.js";
import { experimentMessage, type ExperimentDocument } from "./experimentDocuments.js";
import { duration } from "./durations.js";
import { invalidField } from "./errors.js";
import { share } from "./fields.js";
import * as pb from "./gen/bosal/v1/experiment_pb.js";
import { enumNames, mirror } from "./mirror.js";
import { outcomeMessage, type Outcome } from "./outcomes.js";
import { paged } from "./pages.js";
import { shown } from "./params.js";
import * as reports from "./reports.js";
import { newRequestId } from "./requests.js";

const service = pb.ExperimentService.method;

/** Options of changes. */
export interface ChangeOptions extends CallOptions {
  /** What was read before: refuses an experiment that has changed since. */
  readonly etag?: string | undefined;
  /** For the audit. */
  readonly reason?: string | undefined;
}

/** Options of `start`. */
export interface StartOptions extends ChangeOptions {
  /** Guardrails that are broken, and are to pause the current phase no more. */
  readonly acknowledgedGuardrails?: readonly string[] | undefined;
}

/** Options of `plan`; what is left out is taken from the experiment `name`, if one is given. */
export interface PlanOptions extends CallOptions {
  readonly name?: string | undefined;
  /** The metric's standard deviation over units; of a proportion give the `rate`. */
  readonly deviation?: number | undefined;
  readonly rate?: number | undefined;
  readonly method?: "sequential" | "fixed" | undefined;
  readonly alpha?: number | undefined;
  readonly power?: number | undefined;
}

/** Makes, changes, watches and reports experiments; changes are signed with `actor`. */
export class Experiments {
  /** Who signs, for the audit. */
  actor = "";
  readonly #channel: Channel;

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  /** Keep an experiment as a draft. */
  async create(
    document: ExperimentDocument,
    options: CallOptions = {},
  ): Promise<reports.Experiment> {
    const request = {
      experiment: experimentMessage(document),
      requestId: newRequestId(),
      actor: this.actor,
    };
    return read(await this.#channel.unary(service.createExperiment, request, options));
  }

  /**
   * Begin to enrol units, or go on after a pause. While a guardrail is broken it is refused, unless
   * that is acknowledged by its name.
   */
  async start(name: string, options: StartOptions = {}): Promise<reports.Experiment> {
    const request = {
      change: this.#change(name, options),
      acknowledgedGuardrails: [...(options.acknowledgedGuardrails ?? [])],
    };
    return read(await this.#channel.unary(service.startExperiment, request, options));
  }

  /** Serve the control to everybody for now. */
  async pause(name: string, options: ChangeOptions = {}): Promise<reports.Experiment> {
    const request = { change: this.#change(name, options) };
    return read(await this.#channel.unary(service.pauseExperiment, request, options));
  }

  /** End an experiment; the control is served under its name. */
  async stop(name: string, options: ChangeOptions = {}): Promise<reports.Experiment> {
    const request = { change: this.#change(name, options) };
    return read(await this.#channel.unary(service.stopExperiment, request, options));
  }

  /** End an experiment and serve one variant to everybody under its name. */
  async promote(
    name: string,
    variant: string,
    options: ChangeOptions & { readonly overrideReason?: string | undefined } = {},
  ): Promise<reports.Experiment> {
    const overrideReason = options.overrideReason ?? "";
    const request = { change: this.#change(name, options), variant, overrideReason };
    return read(await this.#channel.unary(service.promoteVariant, request, options));
  }

  /** Enrol another share of the units. */
  async updateTraffic(
    name: string,
    coverage: number,
    options: ChangeOptions = {},
  ): Promise<reports.Experiment> {
    const coveragePpm = share(coverage, "coverage");
    const request = { change: this.#change(name, options), coveragePpm };
    return read(await this.#channel.unary(service.updateTraffic, request, options));
  }

  /** Give variants new weights and units new places. */
  async newPhase(
    name: string,
    weights: Readonly<Record<string, number>>,
    options: ChangeOptions = {},
  ): Promise<reports.Experiment> {
    const weightsPpm = Object.fromEntries(
      Object.entries(weights).map(([key, weight]) => [key, share(weight, `weights.${key}`)]),
    );
    const request = { change: this.#change(name, options), weightsPpm };
    return read(await this.#channel.unary(service.newPhase, request, options));
  }

  /** Return what a unit would be served; nothing is recorded. */
  async assign(
    name: string,
    unit: string,
    options: CallOptions = {},
  ): Promise<reports.Assignment> {
    const request = { experiment: name, unitId: unit };
    const { assignment } = await this.#channel.unary(service.assign, request, options);
    return reports.assignment(assignment);
  }

  /** Record outcomes; each has a result of its own, in their order. */
  async record(
    name: string,
    outcomes: Iterable<Outcome>,
    options: CallOptions = {},
  ): Promise<readonly reports.OutcomeResult[]> {
    const written = Array.from(outcomes, (one, at) => outcomeMessage(one, `outcomes[${at}]`));
    const request = { experiment: name, outcomes: written };
    const { results } = await this.#channel.unary(service.recordOutcomes, request, options);
    return results.map((one) => mirror(pb.OutcomeResultSchema, one));
  }

  async get(name: string, options: CallOptions = {}): Promise<reports.Experiment> {
    return read(await this.#channel.unary(service.getExperiment, { name }, options));
  }

  /** Return every experiment, by name. */
  async every(options: CallOptions = {}): Promise<readonly reports.Experiment[]> {
    const found: reports.Experiment[] = [];
    const ask = (pageToken: string) =>
      this.#channel.unary(service.listExperiments, { pageToken }, options);
    for await (const { experiments } of paged(ask)) {
      found.push(...experiments.map(reports.experiment));
    }
    return found;
  }

  /** Say what is known of a phase; left out, the current one. */
  async report(
    name: string,
    options: CallOptions & {
      readonly phase?: number | undefined;
      readonly withDistributions?: boolean | undefined;
    } = {},
  ): Promise<reports.Report> {
    const { phase = 0, withDistributions = false } = options;
    const request = { name, phase, withDistributions };
    const { report } = await this.#channel.unary(service.getReport, request, options);
    return reports.report(report);
  }

  /** Yield a report at once, then whenever it has changed, `interval` seconds apart at least. */
  async *watch(
    name: string,
    options: CallOptions & { readonly interval?: number | undefined } = {},
  ): AsyncGenerator<reports.Report, void> {
    const { interval = 2 } = options;
    if (!Number.isFinite(interval) || interval < 0) {
      throw invalidField("interval", `seconds, not ${shown(interval)}`);
    }
    const request = { name, minInterval: duration(interval) };
    for await (const { report } of this.#channel.stream(service.streamReport, request, options)) {
      yield reports.report(report);
    }
  }

  /** Return how many units show an effect. */
  async plan(effect: number, options: PlanOptions = {}): Promise<reports.Plan> {
    const { name = "", deviation, rate, method, alpha, power } = options;
    const methods = enumNames(pb.AnalysisMethodSchema);
    const number = method === undefined ? 0 : methods.get(method);
    if (number === undefined) {
      throw invalidField("method", `one of ${[...methods.keys()].join(", ")}`);
    }
    const request = {
      name,
      effect,
      method: number,
      deviation,
      rate,
      alpha,
      power,
    };
    const plan = await this.#channel.unary(service.planExperiment, request, options);
    return mirror(pb.PlanExperimentResponseSchema, plan);
  }

  /** Yield who changed what and why, the newest first; without a name, in every experiment. */
  async *audit(name = "", options: CallOptions = {}): AsyncGenerator<reports.AuditEvent, void> {
    const ask = (pageToken: string) =>
      this.#channel.unary(service.listAuditEvents, { experiment: name, pageToken }, options);
    for await (const { events } of paged(ask)) {
      yield* events.map((event) => mirror(pb.AuditEventSchema, event));
    }
  }

  /** Remove all that is known of a unit, from one experiment or (without a name) from all. */
  async deleteUnit(
    unit: string,
    name = "",
    options: CallOptions = {},
  ): Promise<reports.Removed> {
    const request = { unitId: unit, experiment: name, actor: this.actor };
    const removed = await this.#channel.unary(service.deleteUnit, request, options);
    return mirror(pb.DeleteUnitResponseSchema, removed);
  }

  /** Yield what was recorded, a page at a time. */
  async *export(
    name: string,
    options: CallOptions & { readonly phase?: number | undefined } = {},
  ): AsyncGenerator<reports.Records, void> {
    const request = { name, phase: options.phase ?? 0 };
    for await (const page of this.#channel.stream(service.exportRecords, request, options)) {
      yield mirror(pb.ExportRecordsResponseSchema, page);
    }
  }

  #change(name: string, { etag = "", reason = "" }: ChangeOptions) {
    return { name, etag, reason, actor: this.actor };
  }
}

function read(answer: { readonly experiment?: pb.Experiment | undefined }): reports.Experiment {
  return reports.experiment(answer.experiment);
}
