"""Runners, models and engines, each made once where it can be."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.observer import EngineObserver
from bosal_server.engine.openvino_compiled import CompiledGraph, compile_graph
from bosal_server.engine.openvino_convert import convert
from bosal_server.engine.openvino_runner import OpenVinoRunner
from bosal_server.engine.openvino_runtime import BLOCK_SIZE, is_installed
from bosal_server.model import LoadedModel, load_model

from .bench import GREEDY, Bench, MakeBench, MakeModel
from .desk import Desk
from .naive_streams import Naive


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


@pytest.fixture
def make_desk(
    tiny_llama: LoadedModel, make_plan: Callable[..., Plan], engine_model: MakeModel
) -> Iterator[Callable[..., Desk]]:
    interval = sys.getswitchinterval()
    desks: list[Desk] = []

    def make(**config: Any) -> Desk:
        desk = Desk(engine_model(tiny_llama, cache_tokens=1024), make_plan(), **config)
        desks.append(desk)
        desk.loop.start()
        return desk

    yield make
    for desk in desks:
        desk.runner.gate.set()
        desk.loop.stop()
    sys.setswitchinterval(interval)
