"""Recipe documents survive the wire."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal.v1 import recipe_pb2
from bosal_decoding.recipe import Recipe, load_shipped
from bosal_server.request_errors import InvalidRequest
from bosal_server.rpc.documents import recipe_document, recipe_message, rule_documents

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
PARAMS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
RULES = st.dictionaries(st.text(max_size=5).filter(lambda key: key != "rule"), PARAMS, max_size=3)


@pytest.mark.parametrize("recipe", load_shipped().values(), ids=lambda recipe: recipe.name)
def test_a_shipped_recipe_keeps_its_version(recipe: Recipe) -> None:
    sent = recipe_message(recipe.document()).SerializeToString()
    received = recipe_document(recipe_pb2.Recipe.FromString(sent))
    assert Recipe.parse(received).version == recipe.version
    assert received["name"] == recipe.name


@given(RULES)
def test_any_parameters_come_back_equal(params: dict[str, Any]) -> None:
    document = {"rules": [{"rule": "some_rule", **params}]}
    received = recipe_document(
        recipe_pb2.Recipe.FromString(recipe_message(document).SerializeToString())
    )
    assert received == document


def test_integer_keys_are_sent_as_text() -> None:
    document = {"rules": [{"rule": "logit_bias", "ids": {7: 1.5}}]}
    assert recipe_document(recipe_message(document))["rules"][0]["ids"] == {"7": 1.5}


def test_a_parameter_cannot_take_the_rules_name() -> None:
    message = recipe_pb2.Rule(rule="top_p")
    message.params.update({"rule": "top_k"})
    with pytest.raises(InvalidRequest) as error:
        rule_documents([message], "overrides")
    assert error.value.field == "overrides[0]"


def test_what_is_unset_stays_unset() -> None:
    assert recipe_document(recipe_pb2.Recipe()) == {}
