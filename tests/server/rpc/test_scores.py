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
