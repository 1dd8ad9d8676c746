"""Scores over a real wire."""

import asyncio
import math
from typing import Any

import pytest
from tests.live_server import LiveServer

from bosal_client import AsyncClient, Client, Score
from bosal_client.errors import BosalError, InvalidRequest, NotFound

WORDS = "The cat sat on the mat"
RULES: dict[str, Any] = {
    "rules": [
        {"rule": "logit_bias", "strings": {"a": -6.0}},
        {"rule": "min_tokens", "value": 3},
        {"rule": "temperature", "value": 0.5},
    ]
}
# Its prompt ends in "A:", so the answer begins with a space that its text does not show.
QA: dict[str, Any] = {"scaffold": {"kind": "qa"}, "rules": RULES["rules"]}


def test_an_answer_scores_as_its_generation_reported(client: Client) -> None:
    for recipe in (RULES, QA):
        drawn = client.generate(WORDS, recipe=recipe, seed=2, max_tokens=20, logprobs=0)
        choice = drawn.choices[0]
        assert choice.logprobs is not None
        score = client.score(WORDS, choice.token_ids, recipe=recipe)
        assert score.token_ids == choice.token_ids
        assert score.logprobs.raw == pytest.approx(choice.logprobs.raw, abs=1e-3)
        assert score.logprobs.controlled == pytest.approx(choice.logprobs.controlled, abs=5e-3)
        assert score.raw_logprob == pytest.approx(sum(score.logprobs.raw))
        assert score.controlled_logprob == pytest.approx(sum(score.logprobs.controlled))
        assert score.recipe_version == drawn.started.recipe_version
        assert score.model_digest == drawn.started.model_digest
        assert score.usage.output_tokens == len(choice.token_ids)


@pytest.mark.parametrize("recipe", ["plain", QA, RULES])
def test_a_text_is_tokenised_behind_the_prompt(recipe: Any, client: Client) -> None:
    (prompt,) = client.tokenize(prompt=WORDS, recipe=recipe)
    score = client.score(WORDS, "the dog ran", recipe=recipe, logprobs=2)
    spelled = b"".join(score.logprobs.token_bytes).decode()
    assert spelled.removeprefix(" ") == "the dog ran"
    (whole,) = client.tokenize(prompt.text + spelled)
    assert whole.token_ids == (*prompt.token_ids, *score.token_ids)
    assert all(len(top.token_ids) == 2 for top in score.logprobs.top_controlled)


def test_a_forbidden_token_scores_minus_infinity(client: Client) -> None:
    score = client.score(WORDS, [100, 0, 101, 0], recipe=RULES)
    assert score.logprobs.controlled[1] == -math.inf
    assert math.isfinite(score.logprobs.raw[1])
    assert math.isfinite(score.logprobs.controlled[3])
    assert score.controlled_logprob == -math.inf


HELD: dict[str, Any] = {"regex": "[a-z]+( [a-z]+){2,4}"}


def test_an_answer_under_a_constraint_scores_as_its_generation_reported(client: Client) -> None:
    for recipe in (RULES, QA):
        drawn = client.generate(
            WORDS, recipe=recipe, constraint=HELD, seed=2, max_tokens=20, logprobs=0
        )
        choice = drawn.choices[0]
        assert choice.logprobs is not None
        score = client.score(WORDS, choice.token_ids, recipe=recipe, constraint=HELD)
        assert score.logprobs.raw == pytest.approx(choice.logprobs.raw, abs=1e-3)
        # Tokens that closed the text were the only ones legal, whatever the budget of a score.
        for place, value in enumerate(choice.logprobs.controlled):
            if place not in choice.forced_positions:
                assert score.logprobs.controlled[place] == pytest.approx(value, abs=5e-3)
        assert score.constraint is not None
        assert score.constraint.is_complete
        assert score.constraint.forbidden_position is None


def test_what_a_constraint_forbids_scores_minus_infinity_and_is_named(client: Client) -> None:
    recipe = {"constraint": {"regex": "the dog[a-z ]*"}, "rules": []}
    whole = client.score(WORDS, "the dog ran", recipe=recipe)
    assert whole.constraint is not None
    assert whole.constraint.is_complete
    assert all(map(math.isfinite, whole.logprobs.controlled))
    part = client.score(WORDS, "the d", recipe=recipe)
    assert part.constraint is not None
    assert (part.constraint.forbidden_position, part.constraint.is_complete) == (None, False)
    wrong = client.score(WORDS, "the dog R an", recipe=recipe)
    assert wrong.constraint is not None
    place = wrong.constraint.forbidden_position
    assert place is not None
    spelled = b"".join(wrong.logprobs.token_bytes[: place + 1])
    assert b"R" in spelled
    assert b"R" not in b"".join(wrong.logprobs.token_bytes[:place])
    assert wrong.logprobs.controlled[place] == -math.inf
    assert all(map(math.isfinite, wrong.logprobs.controlled[place + 1 :]))
    assert all(map(math.isfinite, wrong.logprobs.raw))
    assert wrong.controlled_logprob == -math.inf
    assert not wrong.constraint.is_complete
    free = client.score(WORDS, "the dog ran", recipe={"rules": []})
    assert free.constraint is None
    assert free.logprobs.raw == pytest.approx(whole.logprobs.raw, abs=1e-3)


def test_the_asyncio_client_scores_the_same(server: LiveServer, client: Client) -> None:
    async def ask() -> Score:
        async with AsyncClient(server.address) as asking:
            return await asking.score(
                WORDS, "a dog", recipe=RULES, overrides=[{"rule": "top_k", "k": 5}]
            )

    score = asyncio.run(ask())
    assert score.logprobs == client.score(WORDS, "a dog", recipe=RULES).logprobs


@pytest.mark.parametrize(
    ("continuation", "options", "error", "field"),
    [
        ("", {}, InvalidRequest, "text"),
        ([], {}, InvalidRequest, "token_ids"),
        ([5, 100_000], {}, InvalidRequest, "token_ids.ids[1]"),
        (list(range(1, 390)) * 2, {}, InvalidRequest, "token_ids"),
        ("a", {"recipe": "stered"}, NotFound, "prompt.recipe"),
        (
            "a",
            {"recipe": {"rules": [{"rule": "top_q"}]}},
            InvalidRequest,
            "prompt.inline_recipe.rules[0].rule",
        ),
        ("a", {"overrides": [{"rule": "top_k", "k": -1}]}, InvalidRequest, "overrides[0].k"),
        ("a", {"logprobs": 500}, InvalidRequest, "logprobs.top"),
        ("a", {"model": "tinny"}, NotFound, "model"),
        ("a", {"constraint": {"regex": "(a"}}, InvalidRequest, "constraint.regex"),
        (
            "a",
            {"recipe": {"constraint": {"regex": "(a"}}},
            InvalidRequest,
            "prompt.inline_recipe.constraint.regex",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_by_field(
    continuation: Any, options: Any, error: type[BosalError], field: str, client: Client
) -> None:
    with pytest.raises(error) as refused:
        client.score(WORDS, continuation, **({"recipe": "plain"} | options))
    assert refused.value.field == field


def test_nothing_to_ask_is_refused_at_the_prompt(client: Client) -> None:
    with pytest.raises(InvalidRequest) as refused:
        client.score(" ", "a")
    assert refused.value.field == "prompt.instruction"
