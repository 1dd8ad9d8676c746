"""Rules that look at the whole text: where they cut, however the text comes in tokens."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.compile import compile
from bosal_decoding.errors import DecodingError, RuleUnsupported
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe
from bosal_decoding.stopping import StopMatch, TextStop
from bosal_decoding.vocabulary import Vocabulary


def text_stop(vocabulary: Vocabulary, *rules: dict[str, Any], **fields: Any) -> TextStop:
    recipe = Recipe.parse({"rules": list(rules), **fields})
    return compile(recipe, vocabulary, context_tokens=512).text_stop()


def outcome(stop: TextStop, pieces: Sequence[bytes]) -> tuple[bytes, str]:
    """Feed pieces; return the text that comes out and why it ended, '' if it did not."""
    out = b""
    for number, piece in enumerate(pieces):
        match = stop.feed(piece, number)
        if isinstance(match, StopMatch):
            return out + stop.flush(), match.reason
        out += stop.take()
    return out + stop.flush(), ""


def cut_up(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]


CASES = [
    ({"rule": "stop_regex", "pattern": r"#\d{2,4}é?"}, "ab #1 #123é x", "ab #1 "),
    ({"rule": "stop_regex", "pattern": r"(?i)end|b{3}"}, "bb END", "bb "),
    ({"rule": "stop_whitespace", "max_run": 3}, "a   b \n\t  c", "a   b"),
    ({"rule": "max_sentences", "n": 2}, "J. Doe, 3.5 m. He said: “No!” Then", None),
    ({"rule": "max_sentences", "n": 1}, "1. Mr. Fox e.g. ran.\nNo", "1. Mr. Fox e.g. ran."),
    ({"rule": "max_sentences", "n": 2}, "是。否！又", "是。否！"),
    ({"rule": "max_paragraphs", "n": 1}, "\n\none\ntwo\n \nthree", "\n\none\ntwo"),
    ({"rule": "max_paragraphs", "n": 2}, "one\n\ntwo\n\nthree", "one\n\ntwo"),
]


@pytest.mark.parametrize(("rule", "text", "expected"), CASES)
@given(sizes=st.lists(st.integers(1, 7), max_size=30))
def test_the_cut_does_not_depend_on_the_tokens(
    vocabulary: Vocabulary, rule: dict[str, Any], text: str, expected: str | None, sizes: list[int]
) -> None:
    found, reason = outcome(text_stop(vocabulary, rule), cut_up(text.encode(), sizes))
    wanted = "J. Doe, 3.5 m. He said: “No!”" if expected is None else expected
    assert (found.decode(), reason) == (wanted, "STOP_RULE")


@given(
    text=st.text(alphabet="ab1 ", max_size=40),
    pattern=st.sampled_from([r"a{2}b", r"1[ab]{0,2} ", r"b1|a1 a", r"(ab|b)1?"]),
    sizes=st.lists(st.integers(1, 5), max_size=30),
)
def test_the_first_match_to_be_complete_counts(
    vocabulary: Vocabulary, text: str, pattern: str, sizes: list[int]
) -> None:
    expected = next(
        (
            text[:start]
            for end in range(len(text) + 1)
            for start in range(end + 1)
            if re.fullmatch(pattern, text[start:end])
        ),
        text,
    )
    rule = {"rule": "stop_regex", "pattern": pattern}
    found, _ = outcome(text_stop(vocabulary, rule), cut_up(text.encode(), sizes))
    assert found.decode() == expected


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a+b", "longer than 256"),
        ("(a{20}){20}", "longer than 256"),
        ("é{129}", "longer than 256"),
        ("^a", "anchor"),
        ("a$", "anchor"),
        (r"\bend", "word boundary"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreference"),
        ("a(", "not a regular expression"),
        ("(a|)", None),
        ("(|)", "nothing at all"),
    ],
)
def test_a_pattern_that_cannot_be_honoured_is_refused(
    vocabulary: Vocabulary, pattern: str, why: str | None
) -> None:
    rule = {"rule": "stop_regex", "pattern": pattern}
    if why is None:
        text_stop(vocabulary, rule)
        return
    with pytest.raises(RuleUnsupported, match=why) as caught:
        text_stop(vocabulary, rule)
    assert caught.value.field == "rules[0].pattern"


def test_a_pattern_that_would_backtrack_takes_no_time(vocabulary: Vocabulary) -> None:
    rule = {"rule": "stop_regex", "pattern": "(a{0,9}){0,9}(a{0,9}){0,9}b"}
    assert outcome(text_stop(vocabulary, rule), [b"a" * 9] * 60) == (b"a" * 540, "")


def test_loops_end_and_say_so(vocabulary: Vocabulary) -> None:
    def length(tokens: Sequence[int], **params: int) -> int:
        stop = text_stop(vocabulary, {"rule": "stop_loops", **params})
        for at, token in enumerate(tokens, start=1):
            match = stop.feed(b"x", token)
            if match is not None:
                assert isinstance(match, StopMatch)
                assert (match.reason, match.start) == ("LOOP", at)
                return at
        return 0

    assert length([9, 8, *[1, 2, 3] * 20]) == 2 + 24
    assert length([1] * 40) == 24
    assert length([5, *[1, 2] * 9], times=3, min_tokens=2) == 1 + 6
    assert length([1, 2, 3, 4] * 20, max_period=3) == 0
    assert length(list(range(200))) == 0
    assert length([*[1, 2, 3] * 7, 1, 2, 4, *[1, 2, 3] * 3]) == 0


def test_the_budget_waits_for_a_sentence_and_then_no_longer(vocabulary: Vocabulary) -> None:
    rule = {"rule": "token_budget", "tokens": 3, "grace": 2}
    assert outcome(text_stop(vocabulary, rule), [b"A. ", b"b", b" c", b"!", b" D"]) == (
        b"A. b c!",
        "STOP_RULE",
    )
    assert outcome(text_stop(vocabulary, rule), [b"a", b"b", b"c", b"d", b"e", b"f"]) == (
        b"abcde",
        "STOP_RULE",
    )


def test_half_a_character_behind_a_sentence_is_no_end_of_it(vocabulary: Vocabulary) -> None:
    rule = {"rule": "token_budget", "tokens": 2, "grace": 9}
    pieces = [b"A", b" b.\xe2", b"\x80", b"\x9d", b" c"]
    assert outcome(text_stop(vocabulary, rule), pieces) == ("A b.”".encode(), "STOP_RULE")
    ramp = {"rule": "eos_ramp", "weight": 5, "over": 9, "after_sentence": True}
    plan = compile(Recipe.parse({"rules": [ramp]}), vocabulary, context_tokens=512)
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=[], seed=0, choice=0)
    seen = []
    for part in (b".", b"\xe2", b"\x80", b"\x9d"):
        pipeline.slots.commit([0], [vocabulary.ids_spelling(part)[:1]])
        seen.append(bool(pipeline.slots.state.at_sentence_end[0]))
    assert seen == [True, False, False, True]


def test_a_scaffolds_own_marks_end_the_answer(vocabulary: Vocabulary) -> None:
    rule = {"rule": "stop_turns"}
    for scaffold, text, left in [
        ({"kind": "turns"}, b"Yes.\n<|user|>\nNo", b"Yes.\n"),
        ({"kind": "in_context"}, b" Yes.\n\nQ: No", b" Yes.\n"),
        ({"kind": "qa", "answer": "Reply:"}, b" Yes.\nReply: No", b" Yes."),
        ({"kind": "document"}, b"Yes.\n# No", b"Yes."),
        ({"kind": "completion_prefix", "template": "Ask: {instruction}\nSo"}, b"a\nAsk: b", b"a"),
    ]:
        found, reason = outcome(text_stop(vocabulary, rule, scaffold=scaffold), [text])
        assert (found, reason) == (left, "STOP_STRING")
    for kind in ("raw", "plain"):
        with pytest.raises(DecodingError, match="no marks") as caught:
            text_stop(vocabulary, rule, scaffold={"kind": kind})
        assert caught.value.field == "rules[0]"


def test_going_back_opens_the_text_again(vocabulary: Vocabulary) -> None:
    stop = text_stop(
        vocabulary,
        {"rule": "max_sentences", "n": 1},
        {"rule": "banned_strings", "values": ["bad"]},
    )
    assert stop.feed(b"One", 1) is None
    assert isinstance(stop.feed(b". ", 2), StopMatch)
    stop.rewind(1)
    assert stop.stop is None
    assert stop.feed(b" two", 3) is None
    assert stop.flush() == b"One two"


def test_a_cut_counts_bytes_that_are_no_text(vocabulary: Vocabulary) -> None:
    stop = text_stop(vocabulary, {"rule": "max_sentences", "n": 2})
    pieces = [b"\xff\xc3 One", b".", b" \xe9Two", b"! Th"]
    assert outcome(stop, pieces) == (b"\xff\xc3 One. \xe9Two!", "STOP_RULE")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"rule": "stop_loops", "times": 3, "min_tokens": 6}, "LOOP"),
        ({"rule": "token_budget", "tokens": 4, "grace": 2}, "STOP_RULE"),
    ],
)
def test_tokens_that_spell_nothing_count(
    vocabulary: Vocabulary, rule: dict[str, Any], reason: str
) -> None:
    stop = text_stop(vocabulary, rule)
    matches = [stop.feed(b"", 7) for _ in range(6)]
    assert matches[:5] == [None] * 5
    assert isinstance(matches[5], StopMatch)
    assert (matches[5].reason, stop.flush()) == (reason, b"")


def test_the_end_of_the_text_ends_it_by_itself(vocabulary: Vocabulary) -> None:
    stop = text_stop(vocabulary, {"rule": "token_budget", "tokens": 2, "grace": 0})
    assert stop.feed(b"Yes.", 5) is None
    assert stop.feed(b"", 0, is_end=True) is None
    stop.rewind(1)
    assert isinstance(stop.feed(b"", 7), StopMatch)
