"""Recipes over several streams and several models, as a client sees them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.live_server import LiveServer, serving
from tests.server.conftest import save_model

from bosal_client import Client, InvalidRequest

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
CONTRAST = {
    "scaffold": {"kind": "raw"},
    "rules": [
        {"rule": "contrastive", "amateur": "small"},
        {"rule": "temperature", "value": 0},
    ],
}


@pytest.fixture(scope="module")
def two_models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    small = save_model(tmp_path_factory.mktemp("small"), "llama", vocab_size=448, **SMALL)
    with serving(tiny_model, f"--model=small={small}", "--cache-tokens=256") as live:
        yield live


@pytest.fixture(scope="module")
def caller(two_models: LiveServer) -> Iterator[Client]:
    with Client(two_models.address) as connected:
        yield connected


def test_a_recipe_names_another_served_model(caller: Client, two_models: LiveServer) -> None:
    assert [model.name for model in caller.models()] == ["tiny", "small"]
    generation = caller.generate("one two", recipe=CONTRAST, max_tokens=8)
    streams = generation.usage.streams
    assert [(stream.role, stream.model) for stream in streams] == [
        ("base", "tiny"),
        ("amateur", "small"),
    ]
    assert generation.started.prompt_tokens == (streams[0].prompt_tokens,) * 2
    tokens = generation.usage.output_tokens
    assert generation.choices[0].interventions == tokens
    labels = {"model": "tiny", "recipe": "inline", "variant": ""}
    for stream in streams:
        assert stream.forwards == stream.prompt_tokens + tokens - 1
        counted = two_models.metric("bosal_stream_forwards_total", stream=stream.role, **labels)
        assert counted == stream.forwards
    assert two_models.metric("bosal_interventions_total", **labels) == tokens


def test_validation_counts_the_streams(caller: Client) -> None:
    assert caller.validate(CONTRAST).num_streams == 2


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"rule": "contrastive", "amateur": "smal"}, r"rules\[0\]\.amateur.*did you mean 'small'"),
        ({"rule": "guidance", "scale": 1000}, r"rules\[0\]\.scale"),
        ({"rule": "guidance", "negative_prompt": "x " * 600}, "stream 1: 1200 prompt tokens"),
        # Either stream fits the cache of 256 tokens, both do not.
        (
            {"rule": "guidance", "negative_prompt": "x " * 60},
            "2 streams, 126 prompt tokens in all.* needs 14 cache blocks",
        ),
        # The small model's context of 128 tokens holds for its stream.
        ({"rule": "contrastive", "amateur": "small"}, "stream 1: . prompt tokens and 150"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_reason(
    caller: Client, rule: dict[str, Any], message: str
) -> None:
    recipe = {"scaffold": {"kind": "raw"}, "rules": [rule]}
    with pytest.raises(InvalidRequest, match=message):
        caller.generate("one two three four", recipe=recipe, max_tokens=150)
