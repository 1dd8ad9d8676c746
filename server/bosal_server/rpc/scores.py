"""Scores: protobuf to the command, what comes of it to protobuf."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bosal.v1 import generation_pb2 as pb
from bosal_decoding.errors import DecodingError
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.errors import ServerError
from bosal_server.generate_command import GenerateCommand
from bosal_server.limits import Limits
from bosal_server.request_errors import MissingField, located
from bosal_server.rpc import convert
from bosal_server.rpc.constraints import constraint_document
from bosal_server.rpc.documents import rule_documents
from bosal_server.security.caller import current_caller
from bosal_server.started import Started

# Fields of a prompt's source; a command knows them without it.
_OF_PROMPT = ("recipe", "inline_recipe", "instruction", "conversation")


def score_command(
    request: pb.ScoreRequest, deadline: float | None, limits: Limits
) -> GenerateCommand:
    match request.WhichOneof("continuation"):
        case "text":
            continuation: str | Sequence[int] = request.text
        case "token_ids":
            continuation = tuple(request.token_ids.ids)
        case _:
            raise MissingField("continuation", "give a text or token ids")
    with located("prompt"):
        prompt = convert.prompt_command(request.prompt, limits)
    return GenerateCommand(
        prompt=prompt,
        model=request.model,
        overrides=rule_documents(request.overrides, "overrides"),
        constraint=(
            constraint_document(request.constraint) if request.HasField("constraint") else None
        ),
        logprobs=request.logprobs.top,
        seed=0,
        continuation=continuation,
        request_id=request.request_id,
        deadline=deadline,
        caller=current_caller.get(),
    )


@contextmanager
def at_prompt() -> Iterator[None]:
    """Say that an error's field is one of the prompt's, if it is."""
    try:
        yield
    except (DecodingError, ServerError) as error:
        field = error.field or ""
        if field.split(".")[0].split("[")[0] in _OF_PROMPT:
            error.field = f"prompt.{field}"
        raise


def score_response(
    started: Started, events: Sequence[TokensEvent], finished: FinishedEvent
) -> pb.ScoreResponse:
    response = pb.ScoreResponse(
        request_id=started.request_id,
        model=started.model.name,
        model_digest=started.model.digest,
        recipe_name=started.recipe_name,
        recipe_version=started.plan.version,
        token_ids=started.continuation,
        usage=convert.usage(finished.usage),
    )
    for event in events:
        # Merging concatenates the parallel lists.
        response.logprobs.MergeFrom(convert.token_batch(event, started.model.vocabulary).logprobs)
        response.forced_positions.extend(event.forced_positions)
    adherence = finished.endings[0].adherence
    if adherence is not None:
        response.constraint.is_complete = adherence.is_complete
        if adherence.forbidden_position is not None:
            response.constraint.forbidden_position = adherence.forbidden_position
    response.raw_logprob = sum(response.logprobs.raw)
    response.controlled_logprob = sum(response.logprobs.controlled)
    return response
