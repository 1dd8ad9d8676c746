"""How a server starts, refuses to start, and fills up."""

import json
import re
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.live_server import LiveServer, serving, started

from bosal_client import Client, Generation, Overloaded
from bosal_server.config import ModelConfig, RunnerPreference, ServerConfig
from bosal_server.main import serve

ENDLESS = [{"rule": "logit_bias", "ids": {"0": -1000}}]


@pytest.fixture(scope="module")
def small(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with room for one choice and one request in the queue, and recipes of its own."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "mine.yaml").write_text("rules:\n  - {rule: temperature, value: 0}\n")
    (folder / "other.json").write_text(json.dumps({"rules": [{"rule": "top_k", "k": 1}]}))
    options = (f"--recipes={folder}", "--default-recipe=mine", f"--model=twin={tiny_model}")
    with serving(tiny_model, "--max-running=1", "--max-waiting=1", *options) as live:
        yield live


@pytest.mark.long
@pytest.mark.parametrize(
    ("runner", "options", "dtype"),
    [
        ("openvino", (), "(float32|bfloat16)"),
        (
            "auto",
            ("--weights=int8", "--kv-cache=u8"),
            "(float32|bfloat16) with int8 weights and u8 key-value cache",
        ),
    ],
)
def test_openvino_serves_and_says_why(
    tiny_model: Path, tmp_path: Path, runner: str, options: tuple[str, ...], dtype: str
) -> None:
    with LiveServer(
        f"--model=tiny={tiny_model}", *options, runner=runner, XDG_CACHE_HOME=str(tmp_path)
    ) as live:
        with Client(live.address) as client:
            (model,) = client.server_info().models
            assert model.runner == "openvino"
            assert re.fullmatch(dtype, model.dtype)
            assert "greedy tokens equal" in model.runner_reason
            answer = client.generate("Hi", recipe="plain", max_tokens=8, overrides=ENDLESS)
            assert len(answer.choices[0].token_ids) == 8
        labels = {"model": "tiny", "runner": "openvino", "device": "cpu", "fallback": "false"}
        assert live.metric("bosal_model_info", **labels, dtype=model.dtype) == 1
        assert live.stop() == 0, live.errors()
        assert "leaked" not in live.errors()


def test_a_full_queue_refuses_with_the_time_to_try_again(small: LiveServer) -> None:
    with Client(small.address) as client, ThreadPoolExecutor(8) as threads:
        running = client.stream("Hi", max_tokens=450, overrides=ENDLESS)
        next(iter(running))
        waiting = client.stream("Hi", max_tokens=2)
        assert waiting.started
        refused: list[Overloaded] = []

        def ask(_: int) -> Generation | None:
            try:
                return client.generate("Hi", max_tokens=1)
            except Overloaded as error:
                refused.append(error)
                return None

        list(threads.map(ask, range(8)))
        assert refused
        for error in refused:
            assert error.reason == "QUEUE_FULL"
            assert error.retry_after is not None
            assert error.retry_after > 0
        assert len(running.result().choices[0].token_ids) == 450
        assert len(waiting.result().choices) == 1
        counted = small.metric("bosal_errors_total", method="Generate", code="RESOURCE_EXHAUSTED")
        assert counted == len(refused)


def test_recipes_of_a_folder_are_served(small: LiveServer) -> None:
    with Client(small.address) as client:
        names = {recipe.name: recipe for recipe in client.recipes()}
        assert {"mine", "other", "plain", "steered"} <= names.keys()
        assert names["mine"].is_default
        started = client.generate("Hi", max_tokens=1).started
        assert (started.recipe_name, started.recipe_version) == ("mine", names["mine"].version)


def test_several_models_are_served_at_once(small: LiveServer) -> None:
    with Client(small.address) as client:
        assert [(model.name, model.is_default) for model in client.models()] == [
            ("tiny", True),
            ("twin", False),
        ]
        by_model = [
            client.generate("Hi", model=name, seed=1, max_tokens=8, recipe="plain")
            for name in ("tiny", "twin", "")
        ]
        assert [one.started.model for one in by_model] == ["tiny", "twin", "tiny"]
        assert len({one.text for one in by_model}) == 1


def test_a_corrupt_model_is_named_and_the_exit_code_says_so(
    tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with (tmp_path / "errors").open("w+") as stderr:
        process = started("serve", "--port=0", f"--model={broken}", stderr=stderr)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.read() == ""
        assert process.wait(60) == 1
    errors = (tmp_path / "errors").read_text()
    message = errors.splitlines()[-1]
    assert message.startswith("error: ")
    assert "'broken'" in message
    assert "model.safetensors" in message
    assert "Traceback" not in errors


def test_a_missing_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelConfig(name="mine", source="./no-such/folder/at-all")
    assert serve(ServerConfig(models=(model,), port=0, database="temporary")) == 1
    message = capsys.readouterr().err
    assert "'mine'" in message
    assert "./no-such/folder/at-all" in message


def test_a_taken_port_is_named(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelConfig(name="tiny", source=str(tiny_model))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(ServerConfig(models=(model,), port=port)) == 1
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_wrong_recipe_of_the_operator_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("rules:\n  - {rule: top_p, p: 3}\n")
    assert serve(ServerConfig(recipes=tmp_path)) == 1
    message = capsys.readouterr().err
    assert "mine.yaml" in message
    assert "rules[0].p" in message


def test_an_unknown_default_recipe_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(ServerConfig(default_recipe="steerd")) == 1
    assert "'steered'" in capsys.readouterr().err


def test_a_cache_that_holds_no_request_is_refused_at_start(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = {"instruction": "one two three " * 4, "answer": "four five six " * 4}
    recipe = {"scaffold": {"kind": "in_context", "examples": [example]}}
    (tmp_path / "long.json").write_text(json.dumps(recipe))
    config = ServerConfig(
        models=(ModelConfig(name="tiny", source=str(tiny_model)),),
        port=0,
        metrics_port=-1,
        cache_tokens=10,
        runner=RunnerPreference.TORCH,
        recipes=tmp_path,
        default_recipe="long",
        database="temporary",
    )
    assert serve(config) == 1
    message = capsys.readouterr().err
    assert "cannot hold one request of recipe 'long'" in message
    assert "raise cache_tokens" in message
