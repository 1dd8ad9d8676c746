"""The engine without its thread, and helpers to ask it things."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.errors import PluginFault
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_decoding.recipe import Recipe
from bosal_server.engine.active_request import ActiveRequest
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.observer import EngineObserver, NullObserver
from bosal_server.engine.openvino_compiled import CompiledGraph, compile_graph
from bosal_server.engine.openvino_convert import convert
from bosal_server.engine.openvino_runner import OpenVinoRunner
from bosal_server.engine.openvino_runtime import BLOCK_SIZE, is_installed
from bosal_server.engine.request import (
    EngineEvent,
    EngineRequest,
    FailedEvent,
    FinishedEvent,
    TokensEvent,
)
from bosal_server.engine.stepper import Stepper
from bosal_server.engine.waiting_room import WaitingRoom
from bosal_server.errors import ServerError
from bosal_server.model import LoadedModel, load_model

from .naive_streams import Naive

MakeBench = Callable[..., "Bench"]
MakeModel = Callable[..., EngineModel]
GREEDY = ({"rule": "temperature", "value": 0},)


@dataclass
class Answer:
    """All that came back for one request."""

    events: list[EngineEvent] = field(default_factory=list)

    def tokens(self, choice: int = 0) -> list[int]:
        tokens: list[int] = []
        for event in self.events:
            if isinstance(event, TokensEvent) and event.choice == choice:
                assert event.first_position == len(tokens)
                tokens += event.token_ids
        return tokens

    def text(self, choice: int = 0) -> str:
        return "".join(
            event.text
            for event in self.events
            if isinstance(event, TokensEvent) and event.choice == choice
        )

    @property
    def finished(self) -> FinishedEvent:
        last = self.events[-1]
        assert isinstance(last, FinishedEvent), last
        return last

    @property
    def error(self) -> ServerError | PluginFault:
        last = self.events[-1]
        assert isinstance(last, FailedEvent), last
        return last.error

    @property
    def is_over(self) -> bool:
        return bool(self.events) and not isinstance(self.events[-1], TokensEvent)


class _Room(WaitingRoom):
    """A room whose guests come in without knocking."""

    def __init__(self, left: list[str], max_queue_seconds: float | None) -> None:
        super().__init__(1 << 30, max_queue_seconds=max_queue_seconds)
        self._left = left

    def leave(self, active: ActiveRequest, *, was_admitted: bool) -> None:
        self._left.append(active.request.request_id)


class Bench:
    """A stepper whose steps the test takes."""

    def __init__(
        self,
        models: Mapping[str, EngineModel],
        observer: EngineObserver | None = None,
        **limits: float,
    ) -> None:
        self.models = dict(models)
        self.left_queue: list[str] = []
        self.stepper = Stepper(
            models,
            max_groups=int(limits.get("max_groups", 8)),
            max_batch_tokens=int(limits.get("max_batch_tokens", 512)),
            plugin_seconds=limits.get("plugin_seconds", 30.0),
            observer=observer or NullObserver(),
            room=_Room(self.left_queue, limits.get("max_queue_seconds")),
        )
        self.answers: dict[str, Answer] = {}
        self._ids = count()

    @property
    def held_blocks(self) -> int:
        pools = [self.stepper.allocator(name) for name in self.models]
        return sum(pool.num_held + pool.num_reserved for pool in pools)

    def submit(self, plan: Plan, prompt: Sequence[int], **options: Any) -> Answer:
        request_id = options.pop("request_id", f"r{next(self._ids)}")
        request = EngineRequest(
            request_id=request_id,
            model=options.pop("model", next(iter(self.models))),
            plan=plan,
            prompts=options.pop("prompts", None) or (make_prompt(prompt),),
            seed=options.pop("seed", 0),
            max_tokens=options.pop("max_tokens", 12),
            **options,
        )
        answer = Answer()
        self.answers[request_id] = answer
        self.stepper.roster.add(ActiveRequest(request, answer))
        return answer

    @torch.inference_mode()
    def step(self) -> None:
        if self.stepper.has_work:
            self.stepper.step()
        self.collect()

    @torch.inference_mode()
    def cancel(self, answer: Answer) -> None:
        request_id = next(key for key, value in self.answers.items() if value is answer)
        self.stepper.roster.cancel(request_id)
        self.collect()

    def collect(self) -> None:
        for sink, event in self.stepper.roster.take_events():
            assert isinstance(sink, Answer)
            assert not sink.is_over, "an event after the last one"
            sink.events.append(event)

    def run(self, limit: int = 2000) -> None:
        for _ in range(limit):
            if not self.stepper.has_work:
                self.collect()
                return
            self.step()
        raise AssertionError("the engine is stuck")


def make_prompt(token_ids: Sequence[int], pin_tokens: int = 0) -> Prompt:
    ids = tuple(token_ids)
    return Prompt(text="", token_ids=ids, history_ids=ids, pin_tokens=pin_tokens)


def make_prompts(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(1, 400) for _ in range(length)] for length in lengths]


def alone(make_bench: MakeBench, plan: Plan, prompt: list[int], **options: Any) -> Answer:
    bench = make_bench()
    answer = bench.submit(plan, prompt, **options)
    bench.run()
    return answer


class Graphs:
    """Converts and compiles each model once, however many runners the tests make of it."""

    def __init__(self) -> None:
        self._graphs: dict[str, CompiledGraph] = {}

    def runner(self, loaded: LoadedModel, cache_tokens: int) -> OpenVinoRunner:
        if loaded.digest not in self._graphs:
            # One thread: rows come out the same to the bit, whatever else is in the batch.
            graph = compile_graph(convert(loaded.model), dtype="float32", threads=1)
            self._graphs[loaded.digest] = graph
        num_blocks = -(-cache_tokens // BLOCK_SIZE)
        return OpenVinoRunner(self._graphs[loaded.digest], num_blocks=num_blocks)


@pytest.fixture(scope="session")
def graphs() -> Graphs:
    return Graphs()


@pytest.fixture(params=["torch", "openvino"])
def runner_kind(request: pytest.FixtureRequest) -> str:
    """Either runner in turn: what uses the engine is tested on both."""
    if request.param == "openvino" and not is_installed():
        pytest.skip("OpenVINO has no wheel for this platform")
    return str(request.param)


@pytest.fixture
def engine_model(runner_kind: str, graphs: Graphs) -> MakeModel:
    """Make the engine's model of a loaded one."""

    def make(loaded: LoadedModel, cache_tokens: int = 4096) -> EngineModel:
        make_runner = graphs.runner if runner_kind == "openvino" else LoadedModel.runner
        return EngineModel(
            runner=make_runner(loaded, cache_tokens=cache_tokens),
            vocabulary=loaded.vocabulary,
            context_tokens=loaded.context_tokens,
            digest=loaded.digest,
        )

    return make


@pytest.fixture(scope="session")
def stream_folders(
    tiny_llama_folder: Path, save: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Three models over one tokenizer; the heads of two are padded, differently."""
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, **shape}
    medium = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96, **shape}
    return {
        "base": tiny_llama_folder,
        "amateur": save(tmp_path_factory.mktemp("amateur"), "llama", vocab_size=448, **small),
        "expert": save(tmp_path_factory.mktemp("expert"), "llama", vocab_size=411, **medium),
    }


@pytest.fixture(scope="session")
def loaded(stream_folders: dict[str, Path]) -> dict[str, LoadedModel]:
    return {
        name: load_model(name, str(folder), dtype="float32")
        for name, folder in stream_folders.items()
    }


@pytest.fixture(scope="session")
def naive(stream_folders: dict[str, Path]) -> Naive:
    load: Any = AutoModelForCausalLM
    return Naive({name: load.from_pretrained(folder) for name, folder in stream_folders.items()})


@pytest.fixture
def bench_of(engine_model: MakeModel) -> MakeBench:
    def make(loaded: Mapping[str, LoadedModel], **limits: Any) -> Bench:
        return Bench({name: engine_model(model) for name, model in loaded.items()}, **limits)

    return make


@pytest.fixture
def make_bench(tiny_llama: LoadedModel, engine_model: MakeModel) -> Callable[..., Bench]:
    def make(
        models: Mapping[str, EngineModel] | None = None,
        *,
        cache_tokens: int = 4096,
        observer: EngineObserver | None = None,
        **limits: float,
    ) -> Bench:
        models = models or {"tiny": engine_model(tiny_llama, cache_tokens)}
        return Bench(models, observer, **limits)

    return make


@pytest.fixture(scope="session")
def make_plan(tiny_llama: LoadedModel) -> Callable[..., Plan]:
    """Compile rules for the tiny model's vocabulary; greedy unless told otherwise."""

    def make(
        *rules: Mapping[str, Any], greedy: bool = True, loaded: LoadedModel | None = None
    ) -> Plan:
        model = loaded or tiny_llama
        document = {
            "name": "test",
            "scaffold": {"kind": "raw"},
            "rules": [*(GREEDY if greedy else ()), *rules],
        }
        return compile_recipe(
            Recipe.parse(document), model.vocabulary, context_tokens=model.context_tokens
        )

    return make
