/** What the server answered, as plain values. */

import { create } from "@bufbuild/protobuf";
import * as pb from "./gen/bosal/v1/generation_pb.js";
import { mirror } from "./mirror.js";
import type {
  Choice,
  Ending,
  ExplanationSummary,
  Finished,
  Generation,
  Score,
  Started,
  Timings,
  Usage,
} from "./results.js";

export function started(message: pb.Started): Started {
  const { recipe, overrides, ...rest } = mirror(pb.StartedSchema, message);
  return {
    ...rest,
    recipe: recipe ?? {},
    overrides: overrides?.rules ?? [],
    baseVersion: overrides?.baseVersion ?? "",
  };
}

export function finished(message: pb.Finished): Finished {
  return {
    endings: message.endings.map(ending),
    usage: usage(message.usage),
    timings: timings(message.timings),
  };
}

export function generation(message: pb.GenerateResponse): Generation {
  return whole({
    started: started(message.started ?? create(pb.StartedSchema)),
    choices: message.choices.map(choice),
    usage: usage(message.usage),
    timings: timings(message.timings),
  });
}

/** Add what every whole answer says of itself. */
export function whole(parts: Omit<Generation, "requestId" | "text">): Generation {
  const text = parts.choices[0]?.text ?? "";
  return { requestId: parts.started.requestId, text, ...parts };
}

export function score(message: pb.ScoreResponse): Score {
  const { logprobs, ...rest } = mirror(pb.ScoreResponseSchema, message);
  return {
    ...rest,
    logprobs: logprobs ?? mirror(pb.LogprobsSchema, create(pb.LogprobsSchema)),
    usage: usage(message.usage),
  };
}

function choice(message: pb.Choice): Choice {
  const { ending: _, ...answer } = mirror(pb.ChoiceSchema, message);
  const { choice: __, outputTokens: ___, ...end } = ending(
    message.ending ?? create(pb.EndingSchema),
  );
  return { ...answer, ...end };
}

function ending(message: pb.Ending): Ending {
  const { reason, explanation: _, ...rest } = mirror(pb.EndingSchema, message);
  return {
    ...rest,
    finishReason: reason,
    ...(message.explanation && { explanation: summary(message.explanation) }),
  };
}

function summary(message: pb.ExplanationSummary): ExplanationSummary {
  const { rules, ...rest } = mirror(pb.ExplanationSummarySchema, message);
  return {
    ...rest,
    activations: Object.fromEntries(rules.map(({ rule, activations }) => [rule, activations])),
    flips: Object.fromEntries(rules.map(({ rule, flips }) => [rule, flips])),
  };
}

function usage(message: pb.Usage | undefined): Usage {
  return mirror(pb.UsageSchema, message ?? create(pb.UsageSchema));
}

function timings(message: pb.Timings | undefined): Timings {
  const none = { queue: 0, prefill: 0, timeToFirstToken: 0, decode: 0, total: 0 };
  return { ...none, ...mirror(pb.TimingsSchema, message ?? create(pb.TimingsSchema)) };
}
