"""The blocking client."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from threading import Event, Lock
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakSet

import grpc

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc
from bosal_client import calls, comparisons, descriptions, requests, results
from bosal_client.connection import DEFAULT_SERVER, channel_options, checked_timeout, metadata
from bosal_client.constraints import Answer, constraint_of, parsed
from bosal_client.errors import client_closed, from_rpc_error
from bosal_client.experiment_calls import StreamCall
from bosal_client.experiments import Experiments
from bosal_client.patience import TriedCall, Waits, checked_patience
from bosal_client.requests import GenerationOptions, Prompt
from bosal_client.streams import ComparisonStream, Stream

__all__ = ["ChannelClient", "Client"]

Result = TypeVar("Result")


class ChannelClient:
    """Every call, over a channel to whatever answers it; safe to share between threads.

    Close it, or use it in `with`. Every call takes `timeout` in seconds; None waits as long as it
    takes. What the server has no room or quota for it refuses at once, and says when to try again:
    with `retry_seconds` a call does so by itself, for so long at most and within its timeout.
    """

    def __init__(
        self, channel: grpc.Channel, *, api_key: str = "", retry_seconds: float = 0.0
    ) -> None:
        self._patience = checked_patience(retry_seconds)
        self._channel = channel
        self._stub = generation_pb2_grpc.GenerationServiceStub(channel)
        self._metadata = metadata(api_key)
        self._is_closed = False
        # End the pauses between tries.
        self._closed = Event()
        self._tried: WeakSet[TriedCall] = WeakSet()
        # A stream that is begun on a closed channel takes the process down (grpcio 1.76).
        self._closing = Lock()

    def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> results.Generation:
        """Return every choice when all are finished."""
        return self._run(calls.generate(prompt, options), timeout)

    def generate_as(
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
        return parsed(response_model, self.generate(prompt, timeout=timeout, **options))

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerationOptions]
    ) -> Stream:
        """Return an iterator over token batches as they come."""
        spec = requests.generation_spec(prompt, options)
        request = pb.GenerateStreamRequest(spec=spec)
        return Stream(self._begin(self._stub.GenerateStream, request, timeout), spec.request_id)

    def compare(
        self,
        prompt: Prompt,
        recipes: Iterable[str | Mapping[str, Any] | comparisons.ComparedRecipe],
        *,
        timeout: float | None = None,
        **options: Unpack[GenerationOptions],
    ) -> ComparisonStream:
        """Run one prompt through 2 to 8 recipes under the same noise."""
        request = comparisons.request(prompt, recipes, options)
        return ComparisonStream(
            self._begin(self._stub.Compare, request, timeout), len(request.recipes)
        )

    def score(
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
        return self._run(call, timeout)

    def tokenize(
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
        return self._run(call, timeout)

    def recipes(
        self, *, versions_of: str = "", timeout: float | None = None
    ) -> tuple[descriptions.Recipe, ...]:
        """Return every recipe in force, by name, or every version of one, the newest first."""
        recipes, token = self._run(calls.list_recipes(versions_of), timeout)
        while token:
            page, token = self._run(calls.list_recipes(versions_of, token), timeout)
            recipes.extend(page)
        return tuple(recipes)

    def recipe(self, name: str, *, timeout: float | None = None) -> descriptions.Recipe:
        """Return one recipe by `name` or `name@version`."""
        return self._run(calls.get_recipe(name), timeout)

    def create_recipe(
        self, document: calls.Document, *, timeout: float | None = None
    ) -> descriptions.Recipe:
        """Keep a recipe (a mapping, or YAML or JSON text), in force under its name."""
        return self._run(calls.create_recipe(document), timeout)

    def archive_recipe(
        self, name: str, *, timeout: float | None = None
    ) -> tuple[descriptions.Recipe, ...]:
        """Take `name`, or `name@version`, out of service; return the versions that went."""
        return self._run(calls.archive_recipe(name), timeout)

    def validate(
        self, document: calls.Document, *, model: str = "", timeout: float | None = None
    ) -> descriptions.Validation:
        """Compile a recipe (a mapping, or YAML or JSON text) for a model without running it."""
        return self._run(calls.validate(document, model), timeout)

    def rules(self, *, timeout: float | None = None) -> tuple[descriptions.Rule, ...]:
        """Return the server's catalogue of rules."""
        return self._run(calls.list_rules(), timeout)

    def models(self, *, timeout: float | None = None) -> tuple[descriptions.Model, ...]:
        """Return the served models, the default first."""
        return self._run(calls.list_models(), timeout)

    def server_info(self, *, timeout: float | None = None) -> descriptions.ServerInfo:
        """Return the server's versions, defaults and limits."""
        return self._run(calls.server_info(), timeout)

    @cached_property
    def experiments(self) -> Experiments:
        """A/B tests of recipes."""
        return Experiments(self._run, self._run_stream)

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        with self._closing:
            self._is_closed = True
            self._closed.set()
            for call in list(self._tried):
                call.cancel()
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: calls.Call[Result], timeout: float | None) -> Result:
        method = self._channel.unary_unary(
            call.method, type(call.request).SerializeToString, call.response.FromString
        )
        waits = Waits(self._patience, checked_timeout(timeout))
        while True:
            try:
                response = method(call.request, timeout=waits.timeout, metadata=self._metadata)
                return call.read(response)
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                pause = waits.pause(failure)
                if pause is None:
                    raise failure from None
            except ValueError:
                if self._is_closed:
                    raise client_closed() from None
                raise
            if self._closed.wait(pause):
                raise client_closed()

    def _run_stream(self, asked: StreamCall, timeout: float | None) -> Iterator[Any]:
        method = self._channel.unary_stream(
            asked.method, type(asked.request).SerializeToString, asked.response.FromString
        )
        call = self._begin(method, asked.request, timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    def _begin(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        seconds = checked_timeout(timeout)

        def begin(left: float | None) -> Any:
            with self._closing:
                if self._is_closed:
                    raise client_closed()
                return method(request, timeout=left, metadata=self._metadata)

        if not self._patience:
            return begin(seconds)
        call = TriedCall(begin, Waits(self._patience, seconds))
        with self._closing:
            self._tried.add(call)
        return call


class Client(ChannelClient):
    """Talks to one server."""

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str = "",
        retry_seconds: float = 0.0,
    ) -> None:
        options = channel_options(server)
        if credentials is None:
            channel = grpc.insecure_channel(server, options)
        else:
            channel = grpc.secure_channel(server, credentials, options)
        super().__init__(channel, api_key=api_key, retry_seconds=retry_seconds)
