"""Text that rules force, over a real wire: in answers, their marks, scores, in what is refused."""

import math
from typing import Any

import pytest

from bosal_client import BosalError, Client

ASKED = "The cat sat on the ma"
GREEDY: dict[str, Any] = {"rule": "temperature", "value": 0}
PREFILL: dict[str, Any] = {"rule": "prefill", "text": "and looked at"}


def recipe(*rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"scaffold": {"kind": "raw"}, "rules": [GREEDY, *rules], **fields}


def test_a_prefill_is_part_of_the_answer_and_marked(client: Client) -> None:
    whole = client.generate(ASKED, recipe=recipe(PREFILL), max_tokens=20, num_choices=2)
    with client.stream(ASKED, recipe=recipe(PREFILL), max_tokens=20, num_choices=2) as stream:
        for _ in stream:
            pass
    for choice, streamed in zip(whole.choices, stream.result().choices, strict=True):
        assert choice.text.startswith("and looked at")
        assert (choice.text, choice.token_ids) == (streamed.text, streamed.token_ids)
        assert choice.forced_positions == streamed.forced_positions
        assert choice.forced_positions == tuple(range(len(choice.forced_positions)))
        assert 0 < len(choice.forced_positions) < len(choice.token_ids)
    assert whole.usage.output_tokens == sum(len(one.token_ids) for one in whole.choices)


def test_a_healed_answer_goes_on_where_the_prompt_stops(client: Client) -> None:
    plain, healed = (
        client.generate(ASKED, recipe=recipe(*rules), max_tokens=5)
        for rules in ([], [{"rule": "token_healing"}])
    )
    assert sum(healed.started.prompt_tokens) < sum(plain.started.prompt_tokens)
    spelled = client.generate(
        ASKED, recipe=recipe({"rule": "token_healing"}), max_tokens=5, logprobs=0
    )
    assert spelled.choices[0].token_ids == healed.choices[0].token_ids


@pytest.mark.parametrize(
    ("rules", "options", "field", "names"),
    [
        ([PREFILL], {"max_tokens": 1}, "spec.max_tokens", ("prefill", "max_tokens")),
        (
            [PREFILL, {"rule": "allowed_tokens", "strings": ["7"]}],
            {},
            "spec.inline_recipe.rules[2]",
            ("prefill", "allowed_tokens"),
        ),
        (
            [PREFILL],
            {"constraint": {"choice": ["yes", "no"]}},
            "spec.constraint",
            ("prefill", "constraint"),
        ),
        (
            [{"rule": "min_tokens", "value": 9}],
            {"constraint": {"choice": ["yes", "no"]}},
            "spec.constraint",
            ("min_tokens", "constraint"),
        ),
        (
            [{"rule": "token_healing"}, {"rule": "guidance", "negative": "The dog is here a"}],
            {},
            "spec.inline_recipe.rules[2]",
            ("token_healing", "guidance"),
        ),
        (
            [{**PREFILL, "scope": {"first": 3}}],
            {},
            "spec.inline_recipe.rules[1].scope",
            ("prefill",),
        ),
    ],
)
def test_what_cannot_be_forced_is_refused(
    client: Client,
    rules: list[dict[str, Any]],
    options: dict[str, Any],
    field: str,
    names: tuple[str, ...],
) -> None:
    with pytest.raises(BosalError) as caught:
        client.generate(ASKED, recipe=recipe(*rules), **options)
    assert caught.value.field == field
    assert all(f"'{name}'" in str(caught.value) for name in names)


HEALED: dict[str, Any] = {"rule": "token_healing"}
UNHEALED: dict[str, Any] = {**PREFILL, "heal": False}
PHRASES: dict[str, Any] = {
    "rule": "forced_phrases",
    "phrases": [{"text": " in all", "at": 4}, {"text": " That is it."}],
}
WARM: dict[str, Any] = {"rule": "temperature", "value": 1.2}


@pytest.mark.parametrize(
    "rules",
    [
        [PREFILL],
        [UNHEALED],
        [HEALED],
        [HEALED, PREFILL],
        [PHRASES],
        [PREFILL, PHRASES],
        # Draws the end of the text at once, and the last phrase comes before it.
        [PHRASES, {"rule": "eos_ramp", "weight": 90, "over": 9}],
        [{"rule": "guidance", "scale": 1.5}, UNHEALED],
    ],
)
def test_forced_text_scores_as_its_generation_reported(
    client: Client, rules: list[dict[str, Any]]
) -> None:
    asked = recipe(WARM, *rules)
    asked["rules"].remove(GREEDY)
    drawn = client.generate(ASKED, recipe=asked, seed=4, max_tokens=24, logprobs=0).choices[0]
    assert drawn.logprobs is not None
    score = client.score(ASKED, drawn.token_ids, recipe=asked)
    assert score.forced_positions == drawn.forced_positions
    assert bool(score.forced_positions) == (rules != [HEALED])
    assert score.logprobs.raw == pytest.approx(drawn.logprobs.raw, abs=1e-3)
    assert score.logprobs.controlled == pytest.approx(drawn.logprobs.controlled, abs=5e-3)
    assert all(score.logprobs.controlled[place] == 0 for place in score.forced_positions)


@pytest.mark.parametrize("rules", [[PREFILL], [UNHEALED], [HEALED, PREFILL]])
def test_a_text_that_begins_as_forced_scores_and_another_does_not(
    client: Client, rules: list[dict[str, Any]]
) -> None:
    asked = recipe(WARM, *rules)
    asked["rules"].remove(GREEDY)
    score = client.score(ASKED, "and looked at the river", recipe=asked)
    assert all(map(math.isfinite, score.logprobs.controlled))
    assert all(score.logprobs.controlled[place] == 0 for place in score.forced_positions)
    spelled = b"".join(score.logprobs.token_bytes).decode()
    assert spelled.endswith("and looked at the river")
    other = client.score(ASKED, "and walked to the river", recipe=asked)
    wrong = [
        place for place in other.forced_positions if other.logprobs.controlled[place] == -math.inf
    ]
    assert wrong
    assert all(map(math.isfinite, other.logprobs.raw))
    # What is behind the forced text is scored like any answer.
    assert math.isfinite(other.logprobs.controlled[-1])


def test_a_text_holds_its_phrases_where_they_are_due(client: Client) -> None:
    asked = recipe(WARM, PHRASES)
    asked["rules"].remove(GREEDY)
    free = recipe(WARM)
    free["rules"].remove(GREEDY)
    begun = client.score(ASKED, "the way", recipe=free).logprobs.token_bytes
    while len(begun) != 4:
        begun = begun[:-1] if len(begun) > 4 else (*begun, b" I")
    begin = b"".join(begun).decode()
    score = client.score(ASKED, f"{begin} in all the lake. That is it.", recipe=asked)
    assert all(map(math.isfinite, score.logprobs.controlled))
    forced = b"".join(score.logprobs.token_bytes[place] for place in score.forced_positions)
    assert forced == b" in all That is it."
    last = client.score(ASKED, f"{begin} in all the lake. It is it.", recipe=asked)
    assert -math.inf in last.logprobs.controlled
