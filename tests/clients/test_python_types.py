"""Types an operator registers on the command line, used by name against the live server."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter
from tests.clients import registered_types
from tests.clients.command import bosal
from tests.live_server import LiveServer

from bosal_client import Client
from bosal_client.errors import InvalidRequest

NAMES = ("Pet", "Point", "Named", "Colour", "Mood")


@pytest.fixture(scope="module")
def typed_server(tiny_model: Any) -> Iterator[LiveServer]:
    module = "tests.clients.registered_types"
    flags = [f"--python-type={name.lower()}={module}:{name}" for name in NAMES]
    with LiveServer(f"--model=tiny={tiny_model}", *flags) as server:
        yield server


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_type_holds_an_answer_to_its_values(
    typed_server: LiveServer, name: str
) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(getattr(registered_types, name))
    with Client(typed_server.address) as client:
        for seed in range(3):
            generation = client.generate(
                "Say one.", constraint={"python_type": name.lower()}, seed=seed, max_tokens=80
            )
            (choice,) = generation.choices
            assert choice.finish_reason.startswith(("constraint_c", "stop_token")), choice
            if name in ("Colour", "Mood"):
                adapter.validate_python(choice.text)
            else:
                adapter.validate_json(choice.text)
                assert choice.schema_valid


def test_the_server_lists_its_types_and_names_the_nearest(typed_server: LiveServer) -> None:
    with Client(typed_server.address) as client:
        assert sorted(client.server_info().constraints.python_types) == sorted(
            name.lower() for name in NAMES
        )
        with pytest.raises(InvalidRequest, match="did you mean 'pet'") as refused:
            client.generate("Say one.", constraint={"python_type": "pett"})
        assert refused.value.field == "spec.constraint.python_type"


def test_the_command_line_takes_one(typed_server: LiveServer) -> None:
    shown = bosal(typed_server, "generate", "Say one.", "--python-type", "colour")
    assert shown.returncode == 0
    assert shown.stdout.strip() in ("red", "blue")
