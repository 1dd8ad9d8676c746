"""Text that rules force, over a real wire: in the answer, in its marks and in what is refused."""

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


def test_scores_of_forced_text_are_refused(client: Client) -> None:
    with pytest.raises(BosalError, match="prefill"):
        client.score(ASKED, "x", recipe=recipe(PREFILL))
