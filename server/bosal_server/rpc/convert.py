"""Protobuf to commands and events to protobuf; nothing beyond this folder sees protobuf."""

from collections.abc import Sequence
from typing import Literal

from google.protobuf import duration_pb2

from bosal.v1 import generation_pb2 as pb
from bosal_decoding.scaffolds import Message
from bosal_decoding.vocabulary import Vocabulary
from bosal_server.engine.request import (
    ChoiceEnding,
    FinishedEvent,
    FinishReason,
    Timings,
    TokenLogprobs,
    TokensEvent,
    TopTokens,
    Usage,
)
from bosal_server.generate_command import ExperimentCommand, GenerateCommand, PromptCommand
from bosal_server.limits import Limits
from bosal_server.request_errors import InvalidRequest, OutOfRange, located
from bosal_server.rpc import experiments, explanations
from bosal_server.rpc.constraints import compiled_constraint, constraint_document
from bosal_server.rpc.documents import (
    recipe_document,
    recipe_message,
    rule_documents,
    rule_message,
)
from bosal_server.rpc.spelling import token_bytes
from bosal_server.security.caller import Priority, current_caller
from bosal_server.started import Started

_ROLES: dict[int, Literal["user", "assistant"]] = {
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
}
_PRIORITIES: dict[int, Priority | None] = {
    pb.PRIORITY_UNSPECIFIED: None,
    pb.PRIORITY_LOW: Priority.LOW,
    pb.PRIORITY_NORMAL: Priority.NORMAL,
    pb.PRIORITY_HIGH: Priority.HIGH,
}
_FINISH_REASONS = {
    reason: pb.FinishReason.Value(f"FINISH_REASON_{reason.value}") for reason in FinishReason
}


def generate_command(
    spec: pb.GenerationSpec, deadline: float | None, limits: Limits
) -> GenerateCommand:
    return GenerateCommand(
        prompt=prompt_command(spec, limits),
        model=spec.model,
        overrides=rule_documents(spec.overrides, "overrides"),
        num_choices=spec.num_choices if spec.HasField("num_choices") else None,
        max_tokens=spec.max_tokens if spec.HasField("max_tokens") else None,
        seed=spec.seed if spec.HasField("seed") else None,
        logprobs=spec.logprobs.top if spec.HasField("logprobs") else -1,
        constraint=(constraint_document(spec.constraint) if spec.HasField("constraint") else None),
        explain=spec.explain,
        request_id=spec.request_id,
        deadline=deadline,
        caller=current_caller.get(),
        priority=priority(spec),
        experiment=_experiment_command(spec),
    )


def _experiment_command(spec: pb.GenerationSpec) -> ExperimentCommand | None:
    if not spec.HasField("experiment"):
        return None
    asked = spec.experiment
    return ExperimentCommand(
        experiment=asked.experiment, unit=asked.unit_id, force_variant=asked.force_variant
    )


def prompt_command(source: pb.GenerationSpec | pb.PromptSource, limits: Limits) -> PromptCommand:
    with located("inline_recipe"):
        recipe = (
            recipe_document(source.inline_recipe)
            if source.HasField("inline_recipe")
            else source.recipe
        )
    return PromptCommand(
        recipe=recipe,
        instruction=source.instruction if source.HasField("instruction") else None,
        conversation=(
            _messages(source.conversation, limits) if source.HasField("conversation") else None
        ),
    )


def priority(spec: pb.GenerationSpec) -> Priority | None:
    """Return whose turn a request asks to be; None: it does not say."""
    if spec.priority not in _PRIORITIES:
        raise InvalidRequest(f"priority {spec.priority} is none of this server's", field="priority")
    return _PRIORITIES[spec.priority]


def _messages(conversation: pb.Conversation, limits: Limits) -> list[Message]:
    if (count := len(conversation.messages)) > limits.max_messages:
        raise OutOfRange("conversation.messages", count, low=1, high=limits.max_messages)
    messages = []
    for index, message in enumerate(conversation.messages):
        role = _ROLES.get(message.role)
        if role is None:
            field = f"conversation.messages[{index}].role"
            raise InvalidRequest(f"{field} must be ROLE_USER or ROLE_ASSISTANT", field=field)
        messages.append(Message(role=role, text=message.text))
    return messages


def started(event: Started, versions: dict[str, str]) -> pb.Started:
    recipe = event.plan.recipe
    message = pb.Started(
        request_id=event.request_id,
        model=event.model.name,
        model_digest=event.model.digest,
        recipe_name=event.recipe_name,
        recipe_version=recipe.version,
        recipe=recipe_message(recipe.document()),
        seed=event.seed,
        max_tokens=event.max_tokens,
        num_choices=event.num_choices,
        prompt_tokens=[len(prompt.token_ids) for prompt in event.prompts],
        runner=event.model.runner,
        dtype=event.model.dtype,
        device=event.model.device,
        versions=versions,
        assignment=(None if event.assignment is None else experiments.assignment(event.assignment)),
        overrides=_overrides(event),
        dropped_messages=event.prompts[0].dropped_messages,
        dropped_examples=event.prompts[0].dropped_examples,
    )
    if event.program is not None:
        message.constraint.CopyFrom(compiled_constraint(event.program))
    return message


def _overrides(event: Started) -> pb.Overrides | None:
    if not event.overrides:
        return None
    return pb.Overrides(
        base_version=event.base_version, rules=[rule_message(rule) for rule in event.overrides]
    )


def token_batch(event: TokensEvent, vocabulary: Vocabulary) -> pb.TokenBatch:
    batch = pb.TokenBatch(
        choice=event.choice,
        first_position=event.first_position,
        token_ids=event.token_ids,
        text=event.text,
        forced_positions=event.forced_positions,
    )
    if event.logprobs is not None:
        batch.logprobs.CopyFrom(_logprobs(event.logprobs, event.token_ids, vocabulary))
    if event.explanations is not None:
        batch.explanations.extend(explanations.explanations(event.explanations, vocabulary))
    return batch


def finished(event: FinishedEvent) -> pb.Finished:
    return pb.Finished(
        endings=[ending(one) for one in event.endings],
        usage=usage(event.usage),
        timings=timings(event.timings),
    )


def choice(end: ChoiceEnding, batches: Sequence[TokensEvent], vocabulary: Vocabulary) -> pb.Choice:
    """Put one choice together from its merged events."""
    message = pb.Choice(
        index=end.choice, ending=ending(end), text="".join(batch.text for batch in batches)
    )
    for batch in batches:
        message.token_ids.extend(batch.token_ids)
        message.forced_positions.extend(batch.forced_positions)
        if batch.logprobs is not None:
            # Merging concatenates the parallel lists.
            message.logprobs.MergeFrom(_logprobs(batch.logprobs, batch.token_ids, vocabulary))
        if batch.explanations is not None:
            message.explanations.extend(explanations.explanations(batch.explanations, vocabulary))
    return message


def ending(end: ChoiceEnding) -> pb.Ending:
    message = pb.Ending(
        choice=end.choice,
        reason=_FINISH_REASONS[end.reason],
        matched_stop=end.matched_stop,
        output_tokens=end.output_tokens,
        yielded_rules=end.yielded_rules,
        conflicting_rules=end.conflicting_rules,
        schema_valid=end.schema_valid,
        interventions=end.interventions,
    )
    if end.explanation is not None:
        message.explanation.CopyFrom(explanations.summary(end.explanation))
    return message


def usage(counts: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=counts.prompt_tokens,
        cached_prompt_tokens=counts.cached_prompt_tokens,
        output_tokens=counts.output_tokens,
        streams=[
            pb.StreamUsage(
                role=stream.role,
                model=stream.model,
                prompt_tokens=stream.prompt_tokens,
                forwards=stream.forwards,
            )
            for stream in counts.streams
        ],
    )


def timings(seconds: Timings) -> pb.Timings:
    return pb.Timings(
        queue=_duration(seconds.queue),
        prefill=_duration(seconds.prefill),
        time_to_first_token=_duration(seconds.time_to_first_token),
        decode=_duration(seconds.decode),
        total=_duration(seconds.total),
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return duration_pb2.Duration(seconds=whole, nanos=nanos)


def _logprobs(
    logprobs: TokenLogprobs, token_ids: Sequence[int], vocabulary: Vocabulary
) -> pb.Logprobs:
    return pb.Logprobs(
        raw=logprobs.raw,
        raw_rank=logprobs.raw_rank,
        controlled=logprobs.controlled,
        controlled_rank=logprobs.controlled_rank,
        top_raw=[_top_logprobs(top, vocabulary) for top in logprobs.top_raw],
        top_controlled=[_top_logprobs(top, vocabulary) for top in logprobs.top_controlled],
        token_bytes=token_bytes(token_ids, vocabulary),
    )


def _top_logprobs(top: TopTokens, vocabulary: Vocabulary) -> pb.TopLogprobs:
    return pb.TopLogprobs(
        token_ids=top.token_ids,
        logprobs=top.logprobs,
        token_bytes=token_bytes(top.token_ids, vocabulary),
    )


def token_sequence(token_ids: Sequence[int], text: str, vocabulary: Vocabulary) -> pb.TokenSequence:
    return pb.TokenSequence(
        token_ids=token_ids, token_bytes=token_bytes(token_ids, vocabulary), text=text
    )
