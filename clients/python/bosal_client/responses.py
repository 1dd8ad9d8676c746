"""What the server answered, as plain values; shared by both clients."""

from google.protobuf import duration_pb2

from bosal.v1 import generation_pb2 as pb
from bosal_client import explanations, results
from bosal_client.documents import recipe_document, rule_document
from bosal_client.experiment_results import Assignment
from bosal_client.mirror import read

__all__ = [
    "Transcript",
    "event",
    "finished",
    "generation",
    "score",
    "started",
    "token_batch",
    "token_sequence",
]


def event(
    message: pb.GenerateStreamResponse,
) -> results.Started | results.TokenBatch | results.Finished | None:
    """Read one stream event; None for a kind this client is too old to know."""
    match message.WhichOneof("event"):
        case "started":
            return started(message.started)
        case "tokens":
            return token_batch(message.tokens)
        case "finished":
            return finished(message.finished)
        case _:
            return None


def generation(message: pb.GenerateResponse) -> results.Generation:
    return results.Generation(
        started=started(message.started),
        choices=tuple(
            results.Choice(
                index=choice.index,
                text=choice.text,
                token_ids=tuple(choice.token_ids),
                logprobs=_logprobs(choice.logprobs) if choice.HasField("logprobs") else None,
                explanations=tuple(map(explanations.read, choice.explanations)),
                explanation=_summary(choice.ending),
                finish_reason=_finish_reason(choice.ending.reason),
                matched_stop=choice.ending.matched_stop,
                yielded_rules=tuple(choice.ending.yielded_rules),
                interventions=_interventions(choice.ending),
                forced_positions=tuple(choice.forced_positions),
                schema_valid=_schema_valid(choice.ending),
                conflicting_rules=tuple(choice.ending.conflicting_rules),
            )
            for choice in message.choices
        ),
        usage=_usage(message.usage),
        timings=_timings(message.timings),
    )


class Transcript:
    """Puts a stream's events together into the result a unary call would have returned."""

    def __init__(self) -> None:
        self.started: results.Started | None = None
        self.finished: results.Finished | None = None
        self._batches: list[results.TokenBatch] = []

    def add(self, item: results.Started | results.TokenBatch | results.Finished) -> None:
        match item:
            case results.Started():
                self.started = item
            case results.TokenBatch():
                self._batches.append(item)
            case results.Finished():
                self.finished = item

    def result(self) -> results.Generation:
        assert self.started is not None
        assert self.finished is not None
        return results.Generation(
            started=self.started,
            choices=tuple(self._choice(ending) for ending in self.finished.endings),
            usage=self.finished.usage,
            timings=self.finished.timings,
        )

    def _choice(self, ending: results.Ending) -> results.Choice:
        batches = [batch for batch in self._batches if batch.choice == ending.choice]
        logprobs = [batch.logprobs for batch in batches if batch.logprobs is not None]
        return results.Choice(
            index=ending.choice,
            text="".join(batch.text for batch in batches),
            token_ids=tuple(token for batch in batches for token in batch.token_ids),
            logprobs=_joined(logprobs) if logprobs else None,
            explanations=tuple(one for batch in batches for one in batch.explanations),
            explanation=ending.explanation,
            finish_reason=ending.finish_reason,
            matched_stop=ending.matched_stop,
            yielded_rules=ending.yielded_rules,
            interventions=ending.interventions,
            forced_positions=tuple(place for batch in batches for place in batch.forced_positions),
            schema_valid=ending.schema_valid,
            conflicting_rules=ending.conflicting_rules,
        )


def _joined(parts: list[results.Logprobs]) -> results.Logprobs:
    names = results.Logprobs.__dataclass_fields__
    return results.Logprobs(
        **{name: tuple(item for part in parts for item in getattr(part, name)) for name in names}
    )


def started(message: pb.Started) -> results.Started:
    return results.Started(
        request_id=message.request_id,
        model=message.model,
        model_digest=message.model_digest,
        recipe_name=message.recipe_name,
        recipe_version=message.recipe_version,
        recipe=recipe_document(message.recipe),
        seed=message.seed,
        max_tokens=message.max_tokens,
        num_choices=message.num_choices,
        prompt_tokens=tuple(message.prompt_tokens),
        runner=message.runner,
        dtype=message.dtype,
        device=message.device,
        versions=dict(message.versions),
        constraint=(
            _compiled_constraint(message.constraint) if message.HasField("constraint") else None
        ),
        assignment=(
            read(Assignment, message.assignment) if message.HasField("assignment") else None
        ),
        overrides=tuple(map(rule_document, message.overrides.rules)),
        base_version=message.overrides.base_version,
        dropped_messages=message.dropped_messages,
        dropped_examples=message.dropped_examples,
    )


def _compiled_constraint(message: pb.CompiledConstraint) -> results.CompiledConstraint:
    return results.CompiledConstraint(
        backend=message.backend,
        ignored_keywords=tuple(message.ignored_keywords),
        shortest_tokens=message.shortest_tokens if message.HasField("shortest_tokens") else None,
    )


def _schema_valid(ending: pb.Ending) -> bool | None:
    return ending.schema_valid if ending.HasField("schema_valid") else None


def token_batch(message: pb.TokenBatch) -> results.TokenBatch:
    return results.TokenBatch(
        choice=message.choice,
        first_position=message.first_position,
        token_ids=tuple(message.token_ids),
        text=message.text,
        logprobs=_logprobs(message.logprobs) if message.HasField("logprobs") else None,
        explanations=tuple(map(explanations.read, message.explanations)),
        forced_positions=tuple(message.forced_positions),
    )


def finished(message: pb.Finished) -> results.Finished:
    return results.Finished(
        endings=tuple(
            results.Ending(
                choice=ending.choice,
                finish_reason=_finish_reason(ending.reason),
                matched_stop=ending.matched_stop,
                output_tokens=ending.output_tokens,
                yielded_rules=tuple(ending.yielded_rules),
                explanation=_summary(ending),
                interventions=_interventions(ending),
                schema_valid=_schema_valid(ending),
                conflicting_rules=tuple(ending.conflicting_rules),
            )
            for ending in message.endings
        ),
        usage=_usage(message.usage),
        timings=_timings(message.timings),
    )


def _summary(ending: pb.Ending) -> explanations.ExplanationSummary | None:
    return explanations.read_summary(ending.explanation) if ending.HasField("explanation") else None


def _interventions(ending: pb.Ending) -> int | None:
    return ending.interventions if ending.HasField("interventions") else None


def _finish_reason(value: int) -> str:
    known = pb.FinishReason.values()
    if value not in known:  # A newer server's.
        return f"reason_{value}"
    return pb.FinishReason.Name(pb.FinishReason.ValueType(value))[len("FINISH_REASON_") :].lower()


def _logprobs(message: pb.Logprobs) -> results.Logprobs:
    return results.Logprobs(
        raw=tuple(message.raw),
        raw_rank=tuple(message.raw_rank),
        controlled=tuple(message.controlled),
        controlled_rank=tuple(message.controlled_rank),
        top_raw=tuple(_top_logprobs(top) for top in message.top_raw),
        top_controlled=tuple(_top_logprobs(top) for top in message.top_controlled),
        token_bytes=tuple(message.token_bytes),
    )


def _top_logprobs(message: pb.TopLogprobs) -> results.TopLogprobs:
    return results.TopLogprobs(
        token_ids=tuple(message.token_ids),
        logprobs=tuple(message.logprobs),
        token_bytes=tuple(message.token_bytes),
    )


def _usage(message: pb.Usage) -> results.Usage:
    return results.Usage(
        prompt_tokens=message.prompt_tokens,
        cached_prompt_tokens=message.cached_prompt_tokens,
        output_tokens=message.output_tokens,
        streams=tuple(
            results.StreamUsage(
                role=stream.role,
                model=stream.model,
                prompt_tokens=stream.prompt_tokens,
                forwards=stream.forwards,
            )
            for stream in message.streams
        ),
    )


def _timings(message: pb.Timings) -> results.Timings:
    return results.Timings(
        queue=_seconds(message.queue),
        prefill=_seconds(message.prefill),
        time_to_first_token=_seconds(message.time_to_first_token),
        decode=_seconds(message.decode),
        total=_seconds(message.total),
    )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def score(message: pb.ScoreResponse) -> results.Score:
    return results.Score(
        request_id=message.request_id,
        model=message.model,
        model_digest=message.model_digest,
        recipe_name=message.recipe_name,
        recipe_version=message.recipe_version,
        token_ids=tuple(message.token_ids),
        logprobs=_logprobs(message.logprobs),
        raw_logprob=message.raw_logprob,
        controlled_logprob=message.controlled_logprob,
        usage=_usage(message.usage),
        constraint=_constraint_score(message.constraint)
        if message.HasField("constraint")
        else None,
        forced_positions=tuple(message.forced_positions),
    )


def _constraint_score(message: pb.ConstraintScore) -> results.ConstraintScore:
    is_forbidden = message.HasField("forbidden_position")
    return results.ConstraintScore(
        forbidden_position=message.forbidden_position if is_forbidden else None,
        is_complete=message.is_complete,
    )


def token_sequence(message: pb.TokenSequence) -> results.TokenSequence:
    return results.TokenSequence(
        token_ids=tuple(message.token_ids),
        token_bytes=tuple(message.token_bytes),
        text=message.text,
    )
