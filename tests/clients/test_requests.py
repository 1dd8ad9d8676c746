"""What cannot be written as protobuf is refused by the name of its field."""

from typing import Any

import pytest

from bosal_client import InvalidRequest
from bosal_client.requests import GenerationOptions, Message, generation_spec


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
        ({"recipe": {"name": 7}}, "spec.inline_recipe.name"),
        ({"recipe": {"name": "\ud800"}}, "spec.inline_recipe.name"),
        ({"recipe": {"description": ["a"]}}, "spec.inline_recipe.description"),
        ({"recipe": {"scaffold": {"kind": 7}}}, "spec.inline_recipe.scaffold.kind"),
        ({"recipe": {"rules": 7}}, "spec.inline_recipe.rules"),
        ({"recipe": {"rules": {"rule": "top_k"}}}, "spec.inline_recipe.rules"),
        ({"overrides": [{"rule": 7}]}, "spec.overrides[0].rule"),
        # As YAML reads `no: 1` and as `1: …, "1": …` would become one.
        ({"overrides": [{"rule": "token_weights", "weights": {False: 1}}]}, "spec.overrides[0]"),
        ({"overrides": [{"rule": "logit_bias", "ids": {1: 2, "1": 3}}]}, "spec.overrides[0]"),
    ],
)  # fmt: skip
def test_a_value_protobuf_cannot_hold_names_its_field(
    options: GenerationOptions, field: str
) -> None:
    with pytest.raises(InvalidRequest) as failure:
        generation_spec("Hi", options)
    assert failure.value.field == field
    assert field in failure.value.message


def test_an_unknown_role_is_named() -> None:
    role: Any = "system"
    with pytest.raises(InvalidRequest, match="'system'") as failure:
        generation_spec([Message("user", "Hi"), Message(role, "Be kind.")], {})
    assert failure.value.field == "spec.conversation.messages[1].role"


def test_an_unknown_option_is_named() -> None:
    options: Any = {"temperature": 1}
    with pytest.raises(TypeError, match="'temperature'"):
        generation_spec("Hi", options)
