"""Stop rules, bans and nudging under scopes and gates, token by token against what they say."""

from collections.abc import Callable
from typing import Any

import pytest

from bosal_decoding.errors import RuleConflict
from bosal_decoding.plan import Plan
from bosal_decoding.scaffolds import Message
from bosal_server.engine.request import FinishReason
from bosal_server.model import LoadedModel

from .bench import Answer, Bench
from .test_explained_requests import rows_of

MakeBench = Callable[..., Bench]
MakePlan = Callable[..., Plan]
PROMPT = [50, 61, 72, 83, 91]
# Letters alone, so that every token is a text of its own.
LATIN = {"rule": "allowed_scripts", "scripts": ["Latin"], "common": False}


def answer(make_bench: MakeBench, plan: Plan, **options: Any) -> Answer:
    bench = make_bench()
    found = bench.submit(plan, PROMPT, max_tokens=16, **options)
    bench.run()
    return found


@pytest.fixture
def free(make_bench: MakeBench, make_plan: MakePlan) -> list[int]:
    return answer(make_bench, make_plan(LATIN)).tokens()


def spelled(tiny_llama: LoadedModel, token: int) -> str:
    return tiny_llama.vocabulary.token_bytes[token].decode()


def test_a_stop_string_counts_at_its_positions(
    tiny_llama: LoadedModel, free: list[int], make_bench: MakeBench, make_plan: MakePlan
) -> None:
    text = spelled(tiny_llama, free[6])
    stop = {"rule": "stop_strings", "values": [text]}
    pieces = [spelled(tiny_llama, token) for token in free]

    def expected(begin: int, end: int) -> int:
        """How many tokens there are when a token at these positions completes the string."""
        for place in range(begin, min(end, len(pieces))):
            before = "".join(pieces[:place])
            found = (before + pieces[place]).find(text, max(len(before) - len(text) + 1, 0))
            if found >= 0:
                return place + 1
        return len(pieces)

    for scope, (begin, end) in (
        ({"after": 6}, (6, 99)),
        ({"after": 7}, (7, 99)),
        ({"first": 6}, (0, 6)),
        ({"first": 7}, (0, 7)),
    ):
        found = answer(make_bench, make_plan(LATIN, {**stop, "scope": scope}))
        assert len(found.tokens()) == expected(begin, end)
        assert found.tokens() == free[: len(found.tokens())]


@pytest.mark.parametrize("rule", ["stop_strings", "banned_strings"])
def test_a_rule_over_the_text_passes_a_gate_by_the_row_of_its_last_token(
    rule: str,
    tiny_llama: LoadedModel,
    tiny_llama_folder: Any,
    free: list[int],
    make_bench: MakeBench,
    make_plan: MakePlan,
) -> None:
    rows = rows_of(tiny_llama_folder, PROMPT, free).double().softmax(-1).amax(-1).tolist()
    place = 5
    text = "".join(spelled(tiny_llama, token) for token in free[place - 1 : place + 1])
    whole = "".join(spelled(tiny_llama, token) for token in free)
    assert whole.count(text) == 1
    for share, is_in_force in ((rows[place] * 1.001, True), (rows[place] * 0.999, False)):
        gated = {"rule": rule, "values": [text], "when": {"top1_below": share}}
        found = answer(make_bench, make_plan(LATIN, gated))
        if not is_in_force:
            assert found.tokens() == free
        elif rule == "stop_strings":
            assert found.finished.endings[0].reason is FinishReason.STOP_STRING
            assert found.tokens() == free[: place + 1]
        else:
            assert found.tokens()[: place - 1] == free[: place - 1]
            assert found.tokens()[place - 1] != free[place - 1]


def test_a_forced_token_passes_positions_and_no_gate(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    phrase = {"rule": "forced_phrases", "phrases": [{"text": "moon", "at": 4}]}
    stop: dict[str, Any] = {"rule": "stop_strings", "values": ["moon"]}
    with pytest.raises(RuleConflict, match="'forced_phrases' contradicts 'stop_strings'"):
        make_plan(phrase, {**stop, "scope": {"after": 4}})
    for limits in ({"scope": {"first": 4}}, {"when": {"top1_below": 1.0}}):
        found = answer(make_bench, make_plan(LATIN, phrase, {**stop, **limits}))
        assert "moon" in found.text()
        assert len(found.tokens()) == 16
    # Begun by what is forced, it counts at the token that completes it.
    (moon,) = (one.token_ids for one in make_plan(phrase).phrases)
    free = answer(make_bench, make_plan(LATIN, phrase))
    after = 4 + len(moon)
    behind = free.text()[free.text().index("moon") :][:5]
    held = {"rule": "stop_strings", "values": [behind], "scope": {"after": after}}
    found = answer(make_bench, make_plan(LATIN, phrase, held))
    assert found.finished.endings[0].reason is FinishReason.STOP_STRING
    assert len(found.tokens()) == after + 1


@pytest.mark.parametrize("limits", [{"scope": {"first": 5}}, {"when": {"entropy_above": 100}}])
def test_nudging_takes_words_where_it_is_in_force(
    limits: dict[str, Any], make_bench: MakeBench, make_plan: MakePlan
) -> None:
    nudging = {"rule": "nudging", "guide_scaffold": {"kind": "qa"}, "top1_below": 1.0}
    found = []
    for rule in (nudging, {**nudging, **limits}):
        plan = make_plan(rule)
        prompts = plan.prompts([Message(role="user", text="one two three")])
        bench = make_bench()
        asked = bench.submit(plan, (), prompts=prompts, max_tokens=16)
        bench.run()
        found.append(asked.finished.endings[0].interventions or 0)
    # A word that was begun is finished.
    assert (found[1] == 0) == ("when" in limits)
    assert found[1] < found[0]
