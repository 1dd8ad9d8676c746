"""Comparisons over a real wire."""

import asyncio
from typing import Any

import pytest
from tests.live_server import LiveServer

from bosal_client import AsyncClient, Client, ComparedRecipe, Comparison, Divergence, RecipeTokens
from bosal_client.errors import InvalidRequest, NotFound

WORDS = "The cat sat on the mat"
PLAIN: dict[str, Any] = {"rules": []}
NARROW: dict[str, Any] = {"rules": [{"rule": "top_k", "k": 1}]}


def test_a_comparison_is_what_each_recipe_alone_would_have_said(client: Client) -> None:
    again = ComparedRecipe(PLAIN, [{"rule": "top_k", "k": 1}])
    recipes: list[Any] = [PLAIN, NARROW, again]
    with client.compare(WORDS, recipes, seed=5, max_tokens=12) as stream:
        seen = list(stream)
        comparison = stream.result()
    alone = [
        client.generate(WORDS, recipe=recipe, seed=5, max_tokens=12) for recipe in (PLAIN, NARROW)
    ]
    tokens = [one.choices[0].token_ids for one in comparison.generations]
    assert tokens[:2] == [one.choices[0].token_ids for one in alone]
    assert tokens[2] == tokens[1]
    batches = [item for item in seen if isinstance(item, RecipeTokens)]
    for place in range(3):
        mine = [item.tokens for item in batches if item.recipe == place]
        assert tuple(token for batch in mine for token in batch.token_ids) == tokens[place]
    first, second = comparison.divergences
    assert [item for item in seen if isinstance(item, Divergence)] in (
        [first, second],
        [second, first],
    )
    assert first.cause == "rule"
    assert first.rules == ("top_k",)
    assert first.position == second.position
    assert first.position is not None
    assert first.token == tokens[1][first.position]
    assert first.first_token == tokens[0][first.position]
    assert first.token_bytes != first.first_token_bytes


def test_the_asyncio_client_gives_the_same(server: LiveServer, client: Client) -> None:
    async def ask() -> Comparison:
        async with (
            AsyncClient(server.address) as asking,
            asking.compare(WORDS, [PLAIN, NARROW], seed=5, max_tokens=8, explain=True) as stream,
        ):
            return await stream.result()

    found = asyncio.run(ask())
    same = client.compare(WORDS, [PLAIN, NARROW], seed=5, max_tokens=8, explain=True).result()
    assert found.divergences == same.divergences
    for one, other in zip(found.generations, same.generations, strict=True):
        assert (one.text, one.choices[0].token_ids) == (other.text, other.choices[0].token_ids)
        ours, theirs = one.choices[0].explanations, other.choices[0].explanations
        assert len(ours) == 8
        assert [told.shift for told in ours] == [told.shift for told in theirs]
        # Recipes that were not in one batch both times differ in the last bits.
        assert [told.raw_logprob for told in ours] == pytest.approx(
            [told.raw_logprob for told in theirs], abs=1e-4
        )


@pytest.mark.parametrize(
    ("recipes", "options", "field"),
    [
        ([PLAIN], {}, "recipes"),
        ([PLAIN] * 9, {}, "recipes"),
        ([PLAIN, PLAIN], {"num_choices": 2}, "spec.num_choices"),
        ([PLAIN, PLAIN], {"recipe": "plain"}, "spec.recipe"),
        ([PLAIN, PLAIN], {"overrides": [{"rule": "top_k", "k": 1}]}, "spec.overrides"),
        (
            [PLAIN, {"rules": [{"rule": "top_k", "k": "a"}]}],
            {},
            "recipes[1].inline_recipe.rules[0].k",
        ),
        ([PLAIN, PLAIN], {"max_tokens": 0}, "spec.max_tokens"),
        ([PLAIN, PLAIN], {"request_id": "x" * 129}, "spec.request_id"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_field(
    recipes: list[Any], options: Any, field: str, client: Client
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        client.compare(WORDS, recipes, **options).result()
    assert refused.value.field == field


def test_an_unknown_recipe_is_found_by_its_place(client: Client) -> None:
    with pytest.raises(NotFound) as refused:
        client.compare(WORDS, [PLAIN, "stered"]).result()
    assert refused.value.field == "recipes[1].recipe"
    assert "steered" in str(refused.value)


def test_an_unknown_model_is_a_field_of_what_all_share(client: Client) -> None:
    with pytest.raises(NotFound) as refused:
        client.compare(WORDS, [PLAIN, PLAIN], model="none").result()
    assert refused.value.field == "spec.model"


def test_a_comparison_takes_the_longest_request_id(client: Client) -> None:
    name = "x" * 128
    found = client.compare(WORDS, [PLAIN, PLAIN], max_tokens=1, request_id=name).result()
    assert [one.request_id for one in found.generations] == [f"{name}.0", f"{name}.1"]
