"""What cannot be written as protobuf is refused by the name of its field."""

from typing import Any

import pytest

from bosal_client import InvalidRequest
from bosal_client.requests import GenerationOptions, generation_spec


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": -1}, "spec.max_tokens"),
        ({"seed": 2**63}, "spec.seed"),
        ({"seed": 1.5}, "spec.seed"),
        ({"explain": "yes"}, "spec.explain"),
        ({"num_choices": 2**32}, "spec.num_choices"),
        ({"model": "\ud800"}, "spec.model"),
        ({"overrides": [{"rule": "top_k", "k": 10**400}]}, "spec.overrides[0]"),
        ({"overrides": [{"rule": "top_k", "k": object()}]}, "spec.overrides[0]"),
        ({"overrides": ["top_k"]}, "spec.overrides[0]"),
        ({"recipe": {"rules": [["top_k", 3]]}}, "spec.inline_recipe.rules[0]"),
        ({"recipe": {"scaffold": "plain"}}, "spec.inline_recipe.scaffold"),
        ({"recipe": {"scaffold": {"kind": "turns", "user": 10**400}}},
         "spec.inline_recipe.scaffold"),
    ],
)  # fmt: skip
def test_a_value_protobuf_cannot_hold_names_its_field(
    options: GenerationOptions, field: str
) -> None:
    with pytest.raises(InvalidRequest) as failure:
        generation_spec("Hi", options)
    assert failure.value.field == field
    assert field in failure.value.message


def test_an_unknown_option_is_named() -> None:
    options: Any = {"temperature": 1}
    with pytest.raises(TypeError, match="'temperature'"):
        generation_spec("Hi", options)
