"""The engine without a server answers as a server of the same settings does."""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bosal_client import (
    BosalError,
    Cancelled,
    Client,
    DeadlineExceeded,
    Generation,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from bosal_server import Engine
from bosal_server.config import InvalidConfig
from bosal_server.errors import ModelNotFound

PAGE = Path(__file__).parents[2] / "docs" / "in-process.md"
ENDLESS: dict[str, Any] = {"rules": [{"rule": "logit_bias", "ids": {"0": -1000}}]}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(f"tiny={tiny_model}", runner="torch", threads=1, max_top_logprobs=7) as engine:
        yield engine


def told(generation: Generation) -> tuple[Any, ...]:
    """What does not depend on when and where a request ran."""
    started = generation.started
    return (
        generation.choices,
        generation.usage.output_tokens,
        (started.recipe, started.recipe_version, started.overrides, started.base_version),
        (started.model, started.model_digest, started.seed, started.versions, started.dtype),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 4, "overrides": [{"rule": "temperature", "value": 0}]},
        {"seed": 5, "num_choices": 3, "logprobs": 3},
        {"seed": 6, "explain": True, "recipe": "rules"},
        {"seed": 7, "constraint": {"regex": "[a-z]{3,9}"}},
        {"seed": 8, "recipe": {"rules": [{"rule": "stop_strings", "values": ["e"]}]}},
    ],
)
def test_answers_are_those_of_a_server(
    engine: Engine, client: Client, options: dict[str, Any]
) -> None:
    here = engine.generate("Name a river.", max_tokens=20, **options)
    there = client.generate("Name a river.", max_tokens=20, **options)
    assert told(here) == told(there)


def test_streams_and_comparisons_are_those_of_a_server(engine: Engine, client: Client) -> None:
    texts = []
    for one in (engine, client):
        with one.stream("Name a river.", seed=3, max_tokens=15) as stream:
            texts.append(("".join(batch.text for batch in stream), stream.result().choices))
    assert texts[0] == texts[1]
    recipes = ["plain", "rules"]
    found = [
        one.compare("Hello", recipes, seed=3, max_tokens=8).result() for one in (engine, client)
    ]
    assert found[0].divergences == found[1].divergences
    scores = [one.score("Hello", " there", recipe="rules") for one in (engine, client)]
    assert scores[0].logprobs == scores[1].logprobs


@pytest.mark.parametrize(
    "ask",
    [
        lambda one: one.generate("Hello", recipe="plane"),
        lambda one: one.generate("Hello", recipe={"rules": [{"rule": "top_k", "kk": 3}]}),
        lambda one: one.generate(""),
        lambda one: one.generate("Hello", model="other"),
        lambda one: one.stream("Hello", max_tokens=10**7).result(),
        lambda one: one.recipe("nobody"),
        lambda one: one.archive_recipe("plain"),
        lambda one: one.generate("x" * 2_000_000),
    ],
)
def test_errors_are_those_of_a_server(
    engine: Engine, client: Client, ask: Callable[[Any], object]
) -> None:
    errors = []
    for one in (engine, client):
        with pytest.raises(BosalError) as failed:
            ask(one)
        error = failed.value
        errors.append((type(error), str(error), error.reason, error.field, error.metadata))
    assert errors[0] == errors[1]
    assert errors[0][0] in (InvalidRequest, NotFound)


def test_recipes_can_be_kept_and_experiments_made(engine: Engine) -> None:
    engine.create_recipe({"name": "mine", "rules": [{"rule": "top_k", "k": 3}]})
    assert engine.generate("Hello", recipe="mine", max_tokens=3).started.recipe_name == "mine"
    assert engine.experiments.every() == []
    assert [model.name for model in engine.models()] == ["tiny"]
    assert engine.server_info().limits.max_top_logprobs == 7


def test_time_runs_out_and_leaving_a_stream_cancels_it(engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded):
        engine.generate("Hello", recipe=ENDLESS, max_tokens=400, timeout=0.05)
    with engine.stream("Hello", recipe=ENDLESS, max_tokens=400) as stream:
        next(iter(stream))
    with pytest.raises(Cancelled):
        stream.result()


def test_threads_share_it(engine: Engine) -> None:
    found: list[Any] = [None] * 6

    def ask(place: int) -> None:
        found[place] = engine.generate("Hello", seed=place, max_tokens=12).choices[0].token_ids

    threads = [Thread(target=ask, args=(place,)) for place in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [
        engine.generate("Hello", seed=place, max_tokens=12).choices[0].token_ids
        for place in range(len(found))
    ]
    assert found == alone


def test_it_ends_once_and_for_all(tiny_model: Path) -> None:
    before = sys.getswitchinterval()
    engine = Engine(f"tiny={tiny_model}", runner="torch", threads=1)
    stream = engine.stream("Hello", recipe=ENDLESS, max_tokens=400)
    assert stream.started.model == "tiny"
    engine.close()
    engine.close()
    assert sys.getswitchinterval() == before
    with pytest.raises((Cancelled, Unavailable)):
        stream.result()
    with pytest.raises(Unavailable, match="closed"):
        engine.generate("Hello")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_runing": 3}, "there is no setting 'max_runing'; did you mean 'max_running'"),
        ({"port": 50051}, "there is no setting 'port'"),
        ({"max_running": 0}, "max_running: is 0; it must be at least 1"),
        ({"runner": "fast"}, "runner: must be one of auto, openvino, torch"),
        ({"recipes": "/nowhere"}, "recipes: there is no folder '/nowhere'"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(said)):
        Engine("nothing-of-that-name", **settings)


def test_what_cannot_be_served_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nothing to load"):
        Engine(str(tmp_path / "none"))


def test_an_engine_that_cannot_begin_leaves_no_thread_behind(
    tiny_model: Path, tmp_path: Path
) -> None:
    example = {"instruction": "What do cats chase?", "answer": "They chase every ball they find."}
    long = {"name": "long", "scaffold": {"kind": "in_context", "examples": [example] * 2}}
    (tmp_path / "long.json").write_text(json.dumps(long))
    before = set(threading.enumerate())
    with pytest.raises(InvalidConfig, match="raise cache_tokens"):
        Engine(
            f"tiny={tiny_model}",
            runner="torch",
            threads=1,
            recipes=tmp_path,
            default_recipe="long",
            cache_tokens=16,
            trace_endpoint="http://127.0.0.1:1",
        )
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(10)
    assert [thread.name for thread in left if thread.is_alive()] == []


def test_the_pages_example_runs(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(
        r"```python\n(from bosal_server import Engine.*?)```", PAGE.read_text(), re.S
    )
    settings = f'"tiny={tiny_model}", runner="torch", threads=1, max_queue_seconds=9.0'
    exec(compile(example.replace("Engine()", f"Engine({settings})"), str(PAGE), "exec"), {})
    assert "shifted" in capsys.readouterr().out
