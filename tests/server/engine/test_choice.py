import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bosal_decoding.plan import Plan
from bosal_decoding.stopping import BanMatch
from bosal_server.engine.choice import ChoiceOutput, Rollback
from bosal_server.engine.request import (
    ChoiceEnding,
    FinishReason,
    PositionLogprobs,
    TokensEvent,
    TopTokens,
)
from bosal_server.model import LoadedModel

MakePlan = Callable[..., Plan]
# What a rollback also says; not compared.
BAN = BanMatch(string=b"", position=0)


def position(number: float) -> PositionLogprobs:
    return PositionLogprobs(-number, 1, -number, 1, TopTokens([], []), TopTokens([], []))


def play(output: ChoiceOutput, tokens: list[int]) -> list[TokensEvent]:
    """Feed tokens until the choice ends; return the events in order."""
    events = []
    for token in tokens:
        assert output.accept(token) is None
        event = output.take()
        if event is not None:
            events.append(event)
        if output.ending is not None:
            break
    return events


def letters(loaded: LoadedModel, text: str) -> list[int]:
    """Spell a text with one token per byte."""
    return [loaded.vocabulary.token_bytes.index(bytes([byte])) for byte in text.encode()]


def ended(output: ChoiceOutput) -> ChoiceEnding:
    assert output.ending is not None
    return output.ending


def test_what_a_stop_cuts_off_is_told_beside_the_tokens_that_spell_it(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan({"rule": "stop_strings", "values": ["cd"]})
    events = play(ChoiceOutput(0, plan, 9), letters(tiny_llama, "abcdef"))
    assert "".join(event.text for event in events) == "ab"
    assert [event.behind for event in events] == [""] * (len(events) - 1) + ["cd"]
    whole = play(ChoiceOutput(0, plan, 3), letters(tiny_llama, "abc"))
    assert [event.behind for event in whole] == [""] * len(whole)


def test_without_stop_strings_every_token_comes_at_once(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    output = ChoiceOutput(0, make_plan(), 3)
    events = play(output, letters(tiny_llama, "abcdef"))
    assert [(event.first_position, event.text) for event in events] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]
    assert ended(output) == ChoiceEnding(0, FinishReason.MAX_TOKENS, "", 3, ())


def test_the_end_of_the_text_counts_before_a_rule_over_what_was_said(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    budget = {"rule": "token_budget", "tokens": 3, "grace": 0}
    said = letters(tiny_llama, "ab")
    (end, *_) = tiny_llama.eos_ids
    output = ChoiceOutput(0, make_plan(budget), 9)
    play(output, [*said, end])
    assert ended(output).reason is FinishReason.STOP_TOKEN
    output = ChoiceOutput(0, make_plan(budget), 9)
    play(output, [*said, *said])
    assert ended(output).reason is FinishReason.STOP_RULE


def test_half_a_character_holds_text_but_not_tokens(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    output = ChoiceOutput(0, make_plan(), 9)
    events = play(output, letters(tiny_llama, "é!"))
    assert [(len(event.token_ids), event.text) for event in events] == [(1, ""), (1, "é"), (1, "!")]


def test_an_end_token_ends_without_text(make_plan: MakePlan, tiny_llama: LoadedModel) -> None:
    output = ChoiceOutput(0, make_plan(), 9)
    eos = next(iter(tiny_llama.eos_ids))
    events = play(output, [*letters(tiny_llama, "hi"), eos, *letters(tiny_llama, "x")])
    assert "".join(event.text for event in events) == "hi"
    assert events[-1].token_ids == [eos]
    assert ended(output).reason is FinishReason.STOP_TOKEN
    assert ended(output).output_tokens == 3


def test_a_token_beyond_the_vocabulary_spells_nothing(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    output = ChoiceOutput(0, make_plan(), 9)
    events = play(output, [tiny_llama.vocabulary.size + 3])
    assert events[0].text == ""


def test_a_possible_stop_string_is_held_with_its_tokens(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan({"rule": "stop_strings", "values": ["\nQ:"]})
    output = ChoiceOutput(0, plan, 99)
    events = play(output, letters(tiny_llama, "ab\nQc\nQ:d"))
    assert [(event.first_position, len(event.token_ids), event.text) for event in events] == [
        (0, 1, "a"),
        (1, 1, "b"),
        (2, 3, "\nQc"),
        (5, 3, ""),
    ]
    assert ended(output) == ChoiceEnding(0, FinishReason.STOP_STRING, "\nQ:", 8, ())


def test_held_text_is_given_out_when_the_choice_ends_otherwise(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan({"rule": "stop_strings", "values": ["\nQ:"]})
    output = ChoiceOutput(0, plan, 4)
    events = play(output, letters(tiny_llama, "ab\nQ"))
    assert "".join(event.text for event in events) == "ab\nQ"
    assert sum(len(event.token_ids) for event in events) == 4


@settings(max_examples=200)
@given(
    text=st.text(alphabet="abé🙂", max_size=12),
    stops=st.lists(st.text(alphabet="abé🙂", min_size=1, max_size=3), min_size=1, max_size=3),
    data=st.data(),
)
def test_stop_strings_cut_the_text_wherever_tokens_split_it(
    text: str, stops: list[str], data: st.DataObject, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan({"rule": "stop_strings", "values": sorted(set(stops))})
    tokens = letters(tiny_llama, text)
    output = ChoiceOutput(0, plan, len(tokens) + 1)
    taken = ""
    for token in tokens:
        output.accept(token)
        event = output.take() if data.draw(st.booleans()) or output.ending else None
        taken += event.text if event else ""
        if output.ending is not None:
            break
    raw = text.encode()
    ends = [raw.find(stop.encode()) + len(stop.encode()) for stop in stops if stop in text]
    if not ends:
        assert output.ending is None
        output.accept(next(iter(tiny_llama.eos_ids)))
        event = output.take()
        assert event is not None
        assert taken + event.text == text
        return
    first = raw[: min(ends)]
    matched = max((stop for stop in stops if first.endswith(stop.encode())), key=len)
    assert taken == first[: len(first) - len(matched.encode())].decode()
    assert ended(output).matched_stop == matched


def test_a_banned_string_is_taken_back_before_anyone_saw_it(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan({"rule": "banned_strings", "values": ["bad"]})
    output = ChoiceOutput(0, plan, 99)
    x, b, a, d, y = letters(tiny_llama, "xbady")
    assert [output.accept(token) for token in (x, b, a)] == [None, None, None]
    event = output.take()
    assert event is not None
    assert event.token_ids == [x]
    assert output.accept(d) == Rollback(1, b, BAN)
    assert output.take() is None
    assert output.num_tokens == 1
    assert output.accept(y) is None
    event = output.take()
    assert event is not None
    assert (event.first_position, event.token_ids, event.text) == (1, [y], "y")


def test_a_ban_that_yielded_is_not_fought_forever(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan({"rule": "banned_strings", "values": ["ab"]})
    output = ChoiceOutput(0, plan, 3)
    a, b, c = letters(tiny_llama, "abc")
    output.accept(a)
    assert output.accept(b) == Rollback(0, a, BAN)
    output.accept(a)
    assert output.accept(b) is None
    output.accept(c)
    event = output.take()
    assert event is not None
    assert event.text == "abc"
    assert ended(output).yielded_rules == ("banned_strings",)


def test_a_stop_string_behind_a_ban_that_yielded_ends_the_choice_at_once(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    vocabulary = copy.copy(tiny_llama.vocabulary)
    a, whole = letters(tiny_llama, "az")
    spelled = list(vocabulary.token_bytes)
    spelled[whole] = b"xb END"
    vocabulary.token_bytes = tuple(spelled)
    plan = make_plan(
        {"rule": "banned_strings", "values": ["xb"]}, {"rule": "stop_strings", "values": ["END"]}
    )
    output = ChoiceOutput(0, replace(plan, vocabulary=vocabulary), 9)
    output.accept(a)
    assert output.accept(whole) == Rollback(1, whole, BAN)
    assert output.accept(whole) is None
    assert ended(output) == ChoiceEnding(0, FinishReason.STOP_STRING, "END", 2, ("banned_strings",))
    event = output.take()
    assert event is not None
    assert event.text == "axb "


def test_logprobs_travel_with_their_tokens_and_are_taken_back(
    make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan({"rule": "banned_strings", "values": ["ab"]})
    output = ChoiceOutput(0, plan, 3, has_logprobs=True)
    a, b, c = letters(tiny_llama, "abc")
    output.accept(c, position(1))
    output.accept(a, position(2))
    event = output.take()
    assert event is not None
    assert event.logprobs is not None
    assert event.logprobs.raw == [-1]
    assert output.accept(b, position(3)) == Rollback(1, a, BAN)
    output.accept(c, position(4))
    output.accept(c, position(5))
    event = output.take()
    assert event is not None
    assert event.logprobs is not None
    assert event.logprobs.raw == [-4, -5]
    assert event.token_ids == [c, c]


@pytest.mark.parametrize("rules", [(), ({"rule": "stop_strings", "values": ["zz"]},)])
def test_a_conflict_ends_the_choice_without_a_token(
    rules: tuple[dict[str, object], ...], make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    output = ChoiceOutput(2, make_plan(*rules), 9)
    output.accept(letters(tiny_llama, "z")[0])
    output.end_without_token(FinishReason.RULE_CONFLICT)
    event = output.take()
    assert event is not None
    assert event.text == "z"
    assert ended(output) == ChoiceEnding(2, FinishReason.RULE_CONFLICT, "", 1, ())


@pytest.mark.parametrize(
    ("rule", "text", "left", "reason"),
    [
        ({"rule": "stop_loops", "min_tokens": 4}, "abcccccc", "abcccc", FinishReason.LOOP),
        ({"rule": "max_sentences", "n": 1}, "Yes. No.", "Yes.", FinishReason.STOP_RULE),
        ({"rule": "stop_regex", "pattern": "[0-9]b"}, "ab1a2b3", "ab1a", FinishReason.STOP_RULE),
    ],
)
def test_a_rule_over_the_text_ends_it_with_its_own_reason(
    make_plan: MakePlan,
    tiny_llama: LoadedModel,
    rule: dict[str, object],
    text: str,
    left: str,
    reason: FinishReason,
) -> None:
    output = ChoiceOutput(0, make_plan(rule), 99)
    events = play(output, letters(tiny_llama, text))
    assert "".join(event.text for event in events) == left
    assert ended(output).reason is reason
