"""What a server is told: models by name and source, two of one name refused."""

from pathlib import Path

import pytest

from bosal_server.config import InvalidConfig, ModelConfig, ServerConfig


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("Qwen/Qwen3-0.6B-Base", "Qwen3-0.6B-Base", "Qwen/Qwen3-0.6B-Base"),
        ("small=Qwen/Qwen3-0.6B-Base", "small", "Qwen/Qwen3-0.6B-Base"),
        ("mine=/models/a=b", "mine", "/models/a=b"),
    ],
)
def test_a_model_is_a_source_with_or_without_a_name(text: str, name: str, source: str) -> None:
    assert ModelConfig.parse(text) == ModelConfig(name=name, source=source)


def test_a_folders_name_is_the_models(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert ModelConfig.parse(f"{folder}/").name == "my-model"


@pytest.mark.parametrize("text", ["", "=", "a b=source", "name=", "-x=source"])
def test_a_model_without_a_proper_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig, match="NAME=SOURCE"):
        ModelConfig.parse(text)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="'a'"):
        ModelConfig.parse_all(["a=x", "b=y", "a=z"])


def test_the_default_is_this_machine_only() -> None:
    config = ServerConfig()
    assert config.host == config.metrics_host == "127.0.0.1"
