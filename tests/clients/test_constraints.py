"""Constraints through both clients and the command line, against a real server."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from tests.live_server import LiveServer
from typer.testing import CliRunner

from bosal_client import AsyncClient, Client, IncompleteAnswer, InvalidRequest
from bosal_client.cli import application


class Animal(BaseModel):
    name: str = Field(max_length=8)
    legs: int = Field(ge=0, le=8)
    kind: Literal["cat", "dog"]


def test_a_pydantic_class_goes_in_and_an_instance_comes_out(client: Client) -> None:
    animal = client.generate_as(Animal, "Describe an animal.", seed=4, max_tokens=80)
    assert isinstance(animal, Animal)
    assert animal.kind in ("cat", "dog")


def test_so_does_the_asyncio_client(server: LiveServer) -> None:
    async def ask() -> Animal:
        async with AsyncClient(server.address) as client:
            return await client.generate_as(Animal, "An animal?", seed=5, max_tokens=80)

    assert 0 <= asyncio.run(ask()).legs <= 8


def test_an_answer_that_is_not_whole_is_an_error_with_its_text(client: Client) -> None:
    stop = [{"rule": "stop_strings", "values": ['"legs"']}]
    with pytest.raises(IncompleteAnswer, match="stop_string") as caught:
        client.generate_as(Animal, "An animal?", seed=4, max_tokens=80, overrides=stop)
    assert caught.value.text.startswith("{")
    with pytest.raises(TypeError):
        client.generate_as(Animal, "An animal?", num_choices=2)


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_became_of_a_constraint_comes_back(client: Client, is_stream: bool) -> None:
    constraint = {
        "json_schema": {"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}},
        "allow_unsupported": True,
    }
    if is_stream:
        with client.stream("Two numbers.", constraint=constraint, max_tokens=30) as stream:
            generation = stream.result()
    else:
        generation = client.generate("Two numbers.", constraint=constraint, max_tokens=30)
    compiled = generation.started.constraint
    assert compiled is not None
    assert (compiled.backend, compiled.ignored_keywords) == ("llguidance", ("uniqueItems",))
    assert compiled.shortest_tokens == 2
    (choice,) = generation.choices
    items = json.loads(choice.text)
    assert choice.schema_valid is (len(set(items)) == len(items))
    recipe = generation.started.recipe
    assert json.loads(recipe["constraint"]["json_schema"]) == constraint["json_schema"]
    # The recipe in force repeats the answer.
    again = client.generate(
        "Two numbers.", recipe=recipe, seed=generation.started.seed, max_tokens=30
    )
    assert again.choices[0].token_ids == choice.token_ids


def test_forced_tokens_are_marked(client: Client) -> None:
    fields = {"regex": "The capital of France is (Paris|here)\\."}
    (choice,) = client.generate("Say it.", constraint=fields, max_tokens=100).choices
    assert len(choice.forced_positions) > 3
    assert choice.finish_reason == "constraint_complete"


@pytest.mark.parametrize(
    ("constraint", "reason", "field"),
    [
        ({"regex": "(?=a)b"}, "CONSTRAINT_UNSUPPORTED", "spec.constraint.regex"),
        ({"regex": "a", "choice": ["b"]}, "INVALID_PARAMETER", "spec.constraint"),
        ({"regexp": "a"}, "INVALID_PARAMETER", "spec.constraint.regexp"),
        ({"python_type": "pet"}, "UNKNOWN_NAME", "spec.constraint.python_type"),
        ({"choice": 7}, "INVALID_PARAMETER", "spec.constraint"),
        ({"json_schema": {"not": {}}}, "CONSTRAINT_UNSUPPORTED", "spec.constraint.json_schema"),
    ],
)
def test_a_wrong_constraint_is_refused_by_its_field(
    client: Client, constraint: dict[str, Any], reason: str, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.generate("Hello", constraint=constraint)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_the_server_says_what_a_constraint_may_be(client: Client) -> None:
    support = client.server_info().constraints
    assert support.kinds == ("choice", "regex", "json_schema", "grammar", "python_type")
    assert support.backends[0] == "llguidance"


@pytest.fixture
def bosal(server: LiveServer) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(
            application(), ["generate", *arguments, "--server", server.address]
        )
        return result.exit_code, result.output.strip()

    return run


def test_every_kind_has_a_flag(bosal: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert bosal("Yes?", "--choice", "yes", "--choice", "no")[1] in ("yes", "no")
    assert re.fullmatch("[0-9]{4}", bosal("A year.", "--regex", "[0-9]{4}")[1])
    schema = tmp_path / "animal.json"
    schema.write_text(json.dumps(Animal.model_json_schema()))
    code, output = bosal("An animal.", "--schema", str(schema), "--max-tokens", "90")
    assert code == 0
    Animal.model_validate_json(output)
    for name, grammar in (
        ("digits.lark", "start: /[0-9]{3}/"),
        ("digits.gbnf", "root ::= [0-9] [0-9] [0-9]"),
    ):
        file = tmp_path / name
        file.write_text(grammar)
        assert re.fullmatch("[0-9]{3}", bosal("Digits.", "--grammar", str(file))[1])


def test_a_wrong_flag_is_explained(bosal: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, output = bosal("x", "--regex", "a", "--choice", "b")
    assert code == 2
    assert "one constraint" in output
    assert bosal("x", "--regex", "(a")[0] == 2
    code, output = bosal("x", "--schema", str(tmp_path / "nothing.json"))
    assert code == 2


def test_keywords_are_left_out_by_a_flag_which_says_so(
    bosal: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    schema = tmp_path / "pair.json"
    sevens = {"type": "array", "items": {"enum": [7]}, "minItems": 2, "uniqueItems": True}
    schema.write_text(json.dumps(sevens))
    arguments = ("Twice.", "--schema", str(schema), "--max-tokens", "40")
    code, output = bosal(*arguments)
    assert code == 2
    assert "allow_unsupported" in output
    code, output = bosal(*arguments, "--allow-unsupported")
    assert code == 0
    assert "not enforced: uniqueItems; the schema as a whole is violated" in output
    assert "[7" in "".join(output.split())
    code, output = bosal("x", "--regex", "a", "--allow-unsupported")
    assert code == 2
    assert "it goes with --schema" in output
