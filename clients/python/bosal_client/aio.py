"""The asyncio client."""

# ruff: noqa: ASYNC109  `timeout` goes to the server as the call's deadline.

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakSet

import grpc
import grpc.aio

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc
from bosal_client import calls, comparisons, descriptions, requests, results
from bosal_client.aio_experiments import AsyncExperiments
from bosal_client.aio_streams import AsyncComparisonStream, AsyncStream, is_task_cancelled
from bosal_client.connection import DEFAULT_SERVER, channel_options, checked_timeout, metadata
from bosal_client.constraints import Answer, constraint_of, parsed
from bosal_client.errors import Cancelled, client_closed, from_rpc_error
from bosal_client.experiment_calls import StreamCall
from bosal_client.patience import AsyncTriedCall, Waits, checked_patience
from bosal_client.requests import GenerationOptions, Prompt

__all__ = ["AsyncClient", "AsyncComparisonStream", "AsyncStream"]

Result = TypeVar("Result")
Streaming = TypeVar("Streaming", AsyncStream, AsyncComparisonStream)


class AsyncClient:
    """Talks to one server; close it, or use it in `async with`.

    It may be made before there is an event loop, and connects in the loop of its first call; in
    another loop, once that one has ended, it connects anew. Every call takes `timeout` in seconds;
    None waits as long as it takes. What the server has no room or quota for it refuses at once, and
    says when to try again: with `retry_seconds` a call does so by itself, for so long at most and
    within its timeout.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str = "",
        retry_seconds: float = 0.0,
    ) -> None:
        self._patience = checked_patience(retry_seconds)
        self._server = server
        self._credentials = credentials
        self._options = channel_options(server)
        self._metadata = metadata(api_key)
        self._connected: tuple[asyncio.AbstractEventLoop, grpc.aio.Channel] | None = None
        self._is_closed = False
        # Closing a channel ends only those calls that a task waits for at the moment.
        self._streams: WeakSet[AsyncStream | AsyncComparisonStream] = WeakSet()

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> results.Generation:
        """Return every choice when all are finished."""
        return await self._run(calls.generate(prompt, options), timeout)

    async def generate_as(
        self,
        response_model: type[Answer],
        prompt: Prompt,
        *,
        timeout: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Answer:
        """Return the answer as an instance of a pydantic class, whose schema constrains it.

        Raises:
            IncompleteAnswer: the answer was cut off; its `text` is what there is.
        """
        if options.get("num_choices", 1) != 1 or "constraint" in options:
            raise TypeError("generate_as takes neither 'num_choices' nor 'constraint'")
        options["constraint"] = constraint_of(response_model)
        return parsed(response_model, await self.generate(prompt, timeout=timeout, **options))

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> "AsyncStream":
        """Return an asynchronous iterator over token batches as they come."""
        spec = requests.generation_spec(prompt, options)
        stub: generation_pb2_grpc.GenerationServiceAsyncStub
        stub = generation_pb2_grpc.GenerationServiceStub(self._channel())
        call = self._begin(stub.GenerateStream, pb.GenerateStreamRequest(spec=spec), timeout)
        return self._kept(AsyncStream(call, spec.request_id))

    def compare(
        self,
        prompt: Prompt,
        recipes: Iterable[str | Mapping[str, Any] | comparisons.ComparedRecipe],
        *,
        timeout: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> "AsyncComparisonStream":
        """Run one prompt through 2 to 8 recipes under the same noise."""
        request = comparisons.request(prompt, recipes, options)
        stub: generation_pb2_grpc.GenerationServiceAsyncStub
        stub = generation_pb2_grpc.GenerationServiceStub(self._channel())
        call = self._begin(stub.Compare, request, timeout)
        return self._kept(AsyncComparisonStream(call, len(request.recipes)))

    async def score(
        self,
        prompt: Prompt,
        continuation: str | Sequence[int],
        *,
        recipe: str | Mapping[str, Any] = "",
        overrides: Iterable[Mapping[str, Any]] = (),
        constraint: Mapping[str, Any] | None = None,
        model: str = "",
        logprobs: int = 0,
        timeout: float | None = None,
    ) -> results.Score:
        """Return the log-probabilities of an answer, given as text or as tokens."""
        call = calls.score(
            prompt,
            continuation,
            recipe=recipe,
            overrides=overrides,
            constraint=constraint,
            model=model,
            logprobs=logprobs,
        )
        return await self._run(call, timeout)

    async def tokenize(
        self,
        text: str | None = None,
        *,
        prompt: Prompt | None = None,
        recipe: str | Mapping[str, Any] = "",
        model: str = "",
        timeout: float | None = None,
    ) -> tuple[results.TokenSequence, ...]:
        """Return a text's tokens, or those of the prompts a recipe makes of `prompt`."""
        call = calls.tokenize(text, prompt=prompt, recipe=recipe, model=model)
        return await self._run(call, timeout)

    async def recipes(
        self, *, versions_of: str = "", timeout: float | None = None
    ) -> tuple[descriptions.Recipe, ...]:
        """Return every recipe in force, by name, or every version of one, the newest first."""
        recipes, token = await self._run(calls.list_recipes(versions_of), timeout)
        while token:
            page, token = await self._run(calls.list_recipes(versions_of, token), timeout)
            recipes.extend(page)
        return tuple(recipes)

    async def recipe(self, name: str, *, timeout: float | None = None) -> descriptions.Recipe:
        """Return one recipe by `name` or `name@version`."""
        return await self._run(calls.get_recipe(name), timeout)

    async def create_recipe(
        self, document: calls.Document, *, timeout: float | None = None
    ) -> descriptions.Recipe:
        """Keep a recipe (a mapping, or YAML or JSON text), in force under its name."""
        return await self._run(calls.create_recipe(document), timeout)

    async def archive_recipe(
        self, name: str, *, timeout: float | None = None
    ) -> tuple[descriptions.Recipe, ...]:
        """Take `name`, or `name@version`, out of service; return the versions that went."""
        return await self._run(calls.archive_recipe(name), timeout)

    async def validate(
        self, document: calls.Document, *, model: str = "", timeout: float | None = None
    ) -> descriptions.Validation:
        """Compile a recipe (a mapping, or YAML or JSON text) for a model without running it."""
        return await self._run(calls.validate(document, model), timeout)

    async def rules(self, *, timeout: float | None = None) -> tuple[descriptions.Rule, ...]:
        """Return the server's catalogue of rules."""
        return await self._run(calls.list_rules(), timeout)

    async def models(self, *, timeout: float | None = None) -> tuple[descriptions.Model, ...]:
        """Return the served models, the default first."""
        return await self._run(calls.list_models(), timeout)

    async def server_info(self, *, timeout: float | None = None) -> descriptions.ServerInfo:
        """Return the server's versions, defaults and limits."""
        return await self._run(calls.server_info(), timeout)

    @cached_property
    def experiments(self) -> AsyncExperiments:
        """A/B tests of recipes."""
        return AsyncExperiments(self._run, self._run_stream)

    async def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._is_closed = True
        connected, self._connected = self._connected, None
        if connected is not None and connected[0] is asyncio.get_running_loop():
            for stream in list(self._streams):
                stream.cancel()
            await connected[1].close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _channel(self) -> grpc.aio.Channel:
        """Return the connection of the running loop."""
        if self._is_closed:
            raise client_closed()
        loop = asyncio.get_running_loop()
        if self._connected is None or self._connected[0].is_closed():
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(self._server, self._options)
            else:
                channel = grpc.aio.secure_channel(self._server, self._credentials, self._options)
            self._connected = (loop, channel)
        owner, channel = self._connected
        if owner is not loop:
            raise RuntimeError(
                "this AsyncClient is in use by another event loop; make one for each"
            )
        return channel

    def _kept(self, stream: Streaming) -> Streaming:
        self._streams.add(stream)
        return stream

    async def _run(self, call: calls.Call[Result], timeout: float | None) -> Result:
        method = self._channel().unary_unary(
            call.method, type(call.request).SerializeToString, call.response.FromString
        )
        waits = Waits(self._patience, checked_timeout(timeout))
        while True:
            try:
                asked = method(call.request, timeout=waits.timeout, metadata=self._metadata)
                return call.read(await asked)
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                pause = waits.pause(failure)
                if pause is None:
                    raise failure from None
            except asyncio.CancelledError:
                if is_task_cancelled():
                    raise
                raise Cancelled("the call was cancelled") from None
            await asyncio.sleep(pause)
            if self._is_closed:
                raise client_closed()

    async def _run_stream(self, asked: StreamCall, timeout: float | None) -> AsyncIterator[Any]:
        method = self._channel().unary_stream(
            asked.method, type(asked.request).SerializeToString, asked.response.FromString
        )
        call = self._begin(method, asked.request, timeout)
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
            raise Cancelled("the call was cancelled") from None
        finally:
            call.cancel()

    def _begin(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        seconds = checked_timeout(timeout)

        def begin(left: float | None) -> Any:
            if self._is_closed:
                raise client_closed()
            return method(request, timeout=left, metadata=self._metadata)

        if not self._patience:
            return begin(seconds)
        return AsyncTriedCall(begin, Waits(self._patience, seconds))
