"""Explanations over a real wire."""

from typing import Any

import pytest

from bosal_client import Client, GenerationOptions

WORDS = "The cat sat on the mat"
RULES: list[dict[str, Any]] = [
    {"rule": "token_weights", "weights": {"a": -5, " the": 4}, "if_missing": "skip"},
    {"rule": "temperature", "value": 0.7},
    {"rule": "top_p", "p": 0.8},
]


def test_a_choice_carries_an_explanation_per_token_and_their_sum(client: Client) -> None:
    options = GenerationOptions(
        recipe={"rules": RULES}, max_tokens=30, seed=5, num_choices=2, explain=True, logprobs=0
    )
    whole = client.generate(WORDS, **options)
    with client.stream(WORDS, **options) as stream:
        streamed = stream.result()
    assert streamed.choices == whole.choices
    for choice in whole.choices:
        assert len(choice.explanations) == len(choice.token_ids)
        assert choice.logprobs is not None
        changed = 0
        for token, one, raw, rank, controlled in zip(
            choice.token_ids,
            choice.explanations,
            choice.logprobs.raw,
            choice.logprobs.raw_rank,
            choice.logprobs.controlled,
            strict=True,
        ):
            assert one.raw_logprob == pytest.approx(raw, abs=1e-4)
            assert one.controlled_logprob == pytest.approx(controlled, abs=1e-4)
            assert one.raw_rank == rank
            expected = "unshifted" if rank == 1 else "marginal" if rank <= 3 else "shifted"
            assert one.shift == expected
            changed += token != one.uncontrolled_token
            for effect in one.rules:
                assert effect.rule in {rule["rule"] for rule in RULES}
                assert (effect.token_without is None) == (token == one.uncontrolled_token)
        summary = choice.explanation
        assert summary is not None
        assert summary.changed_tokens == changed
        counted = summary.unshifted_tokens + summary.marginal_tokens + summary.shifted_tokens
        assert counted == len(choice.token_ids)


def test_nothing_is_explained_unless_asked(client: Client) -> None:
    generation = client.generate(WORDS, recipe={"rules": RULES}, max_tokens=5)
    assert generation.choices[0].explanations == ()
    assert generation.choices[0].explanation is None
