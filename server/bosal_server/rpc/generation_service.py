"""GenerationService over gRPC."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import monotonic
from typing import Any

import grpc.aio

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc
from bosal_server.comparison import compare
from bosal_server.core import GenerationCore
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.generate_command import GenerateCommand
from bosal_server.request_errors import MissingField, located
from bosal_server.rpc import comparisons, convert, experiments, scores
from bosal_server.rpc.interceptors import Door
from bosal_server.security.caller import current_caller
from bosal_server.started import Started

Context = grpc.aio.ServicerContext[Any, Any]

_SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Generates text, whole or as a stream, and tokenises."""

    def __init__(self, core: GenerationCore) -> None:
        self._core = core

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        response = pb.GenerateResponse()
        batches: dict[int, list[TokensEvent]] = {}
        with located("spec"):
            command = self._command(request.spec, context)
            async with aclosing(self._core.generate(command)) as events:
                async for event in events:
                    match event:
                        case Started():
                            _tell_assignment(event, context)
                            vocabulary = event.model.vocabulary
                            response.started.CopyFrom(convert.started(event, self._core.versions))
                        case TokensEvent():
                            batches.setdefault(event.choice, []).append(event)
                        case FinishedEvent():
                            response.usage.CopyFrom(convert.usage(event.usage))
                            response.timings.CopyFrom(convert.timings(event.timings))
                            response.choices.extend(
                                convert.choice(end, batches.get(end.choice, ()), vocabulary)
                                for end in event.endings
                            )
        return response

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        with located("spec"):
            command = self._command(request.spec, context)
            async with aclosing(self._core.generate(command)) as events:
                async for event in events:
                    match event:
                        case Started():
                            _tell_assignment(event, context)
                            vocabulary = event.model.vocabulary
                            message = convert.started(event, self._core.versions)
                            yield pb.GenerateStreamResponse(started=message)
                        case TokensEvent():
                            batch = convert.token_batch(event, vocabulary)
                            yield pb.GenerateStreamResponse(tokens=batch)
                        case FinishedEvent():
                            yield pb.GenerateStreamResponse(finished=convert.finished(event))

    async def Compare(
        self, request: pb.CompareRequest, context: Context
    ) -> AsyncGenerator[pb.CompareResponse, None]:
        command = comparisons.compare_command(
            request, _deadline(context.time_remaining()), self._core.limits
        )
        with located("spec"):
            vocabulary = self._core.models.find(command.shared.model).vocabulary
        async with aclosing(compare(self._core, command)) as events:
            async for event in events:
                yield comparisons.compare_response(event, self._core.versions, vocabulary)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        command = scores.score_command(
            request, _deadline(context.time_remaining()), self._core.limits
        )
        events = []
        started: Started | None = None
        finished: FinishedEvent | None = None
        with scores.at_prompt():
            async with aclosing(self._core.generate(command)) as run:
                async for event in run:
                    match event:
                        case Started():
                            started = event
                        case TokensEvent():
                            events.append(event)
                        case FinishedEvent():
                            finished = event
        assert started is not None
        assert finished is not None
        return scores.score_response(started, events, finished)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        model = self._core.models.find(request.model)
        vocabulary = model.vocabulary
        caller = current_caller.get()
        match request.WhichOneof("source"):
            case "text":
                ids = await self._core.tokenize_text(request.text, model, caller)
                sequences = [convert.token_sequence(ids, request.text, vocabulary)]
            case "prompt":
                with located("prompt"):
                    command = convert.prompt_command(request.prompt, self._core.limits)
                    prompts = await self._core.tokenize_prompt(command, model, caller)
                sequences = [
                    convert.token_sequence(prompt.token_ids, prompt.text, vocabulary)
                    for prompt in prompts
                ]
            case _:
                raise MissingField("source", "give a text or a prompt")
        return pb.TokenizeResponse(sequences=sequences)

    def _command(self, spec: pb.GenerationSpec, context: Context) -> GenerateCommand:
        deadline = _deadline(context.time_remaining())
        return convert.generate_command(spec, deadline, self._core.limits)


def doors(core: GenerationCore) -> dict[str, Door]:
    """Return what a request of the methods that wait for the engine has to pass first."""

    def room(request: pb.GenerateRequest | pb.GenerateStreamRequest, left: float | None) -> None:
        with located("spec"):
            priority = convert.priority(request.spec)
            core.check_room(current_caller.get(), priority, _deadline(left))

    return {f"/{_SERVICE}/Generate": room, f"/{_SERVICE}/GenerateStream": room}


def _tell_assignment(event: Started, context: Context) -> None:
    if event.assignment is not None:
        context.set_trailing_metadata(experiments.assignment_trailers(event.assignment))


def _deadline(remaining: float | None) -> float | None:
    return None if remaining is None else monotonic() + remaining
