"""What scaffolds write, and that a user's text never becomes a marker."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.errors import InvalidConversation
from bosal_decoding.scaffolds import SCAFFOLDS, Message, neutralise, read_scaffold

EXAMPLES = [{"instruction": "One?", "answer": "Yes."}, {"instruction": "Two?", "answer": "No."}]
IN_CONTEXT = {"kind": "in_context", "preamble": "Be kind.", "examples": EXAMPLES}
ALL: list[dict[str, Any]] = [{"kind": kind} for kind in SCAFFOLDS] + [IN_CONTEXT]


def user(text: str) -> Message:
    return Message(role="user", text=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", text=text)


TURNS = [user(" Hi\n"), assistant("Hello."), user("Bye")]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"kind": "raw"}, " Hi\nHello.Bye"),
        ({"kind": "plain"}, " Hi\n\nHello.\nBye\n"),
        (
            {"kind": "turns"},
            "<|user|>\nHi\n<|assistant|>\nHello.\n<|user|>\nBye\n<|assistant|>\n",
        ),
        (
            IN_CONTEXT,
            "Be kind.\n\nQ: One?\nA: Yes.\n\nQ: Two?\nA: No.\n\nQ: Hi\nA: Hello.\n\nQ: Bye\nA:",
        ),
        (
            {"kind": "in_context", "question": "# Query:", "answer": "# Answer:"},
            "# Query: Hi\n# Answer: Hello.\n\n# Query: Bye\n# Answer:",
        ),
    ],
)
def test_a_conversation_is_written_as_documented(entry: dict[str, Any], expected: str) -> None:
    (rendered,) = read_scaffold(entry, "scaffold").render(TURNS)
    assert rendered.text == expected


@pytest.mark.parametrize("entry", ALL)
def test_spans_are_what_the_user_wrote(entry: dict[str, Any]) -> None:
    (rendered,) = read_scaffold(entry, "scaffold").render(TURNS)
    written = [rendered.text[start:end].strip() for start, end in rendered.spans]
    assert written == ["Hi", "Bye"]


@pytest.mark.parametrize("entry", ALL)
def test_the_stable_prefix_is_the_same_for_every_conversation(entry: dict[str, Any]) -> None:
    scaffold = read_scaffold(entry, "scaffold")
    first, second = scaffold.render([user("x")])[0], scaffold.render([user("y"), *TURNS])[0]
    assert first.stable_chars == second.stable_chars
    assert first.text[: first.stable_chars] == second.text[: first.stable_chars]


@pytest.mark.parametrize("kind", ["raw", "plain"])
@given(text=st.text().filter(str.strip))
def test_scaffolds_without_markers_keep_the_text_verbatim(kind: str, text: str) -> None:
    (rendered,) = read_scaffold({"kind": kind}, "scaffold").render([user(text)])
    assert rendered.text == text + ("\n" if kind == "plain" else "")


PIECES = st.sampled_from(
    ["<|user|>", "<|assistant|>", "<", "|", "user", "\n", " ", "Q:", "A:", "x"]
)


@pytest.mark.parametrize("entry", [{"kind": "turns"}, IN_CONTEXT])
@given(pieces=st.lists(PIECES, min_size=1, max_size=12))
def test_markers_in_user_text_are_broken(entry: dict[str, Any], pieces: list[str]) -> None:
    text = "".join(pieces) + "x"
    scaffold = read_scaffold(entry, "scaffold")
    (rendered,) = scaffold.render([user(text)])
    (reference,) = scaffold.render([user("x")])
    for marker in ("<|user|>", "<|assistant|>") if entry["kind"] == "turns" else ("\nQ:", "\nA:"):
        assert rendered.text.count(marker) == reference.text.count(marker)
    ((start, end),) = rendered.spans
    assert rendered.text[start:end].replace(" ", "") == text.strip().replace(" ", "")


def test_a_broken_marker_gets_one_space() -> None:
    assert neutralise("a <|user|> b", ["<|user|>"]) == "a < |user|> b"
    assert neutralise("see\nQ: what\nQ:", ["\nQ:"]) == "see\n Q: what\n Q:"
    assert neutralise("FAQ: what", ["\nQ:"]) == "FAQ: what"


@given(
    text=st.text("ab ", max_size=20),
    markers=st.lists(st.text("ab ", min_size=2, max_size=4).filter(lambda m: m.strip() == m)),
)
def test_neutralising_ends_and_only_adds_spaces(text: str, markers: list[str]) -> None:
    result = neutralise(text, markers)
    assert not any(marker in result for marker in markers)
    assert result.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("kind", sorted(SCAFFOLDS))
@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ([user("")], "messages[0].text"),
        ([user("hi"), user(" \n")], "messages[1].text"),
        ([user("hi"), assistant("ho")], "messages[1].role"),
    ],
)
def test_conversations_without_a_question_are_refused(
    kind: str, messages: list[Message], field: str
) -> None:
    with pytest.raises(InvalidConversation) as caught:
        read_scaffold({"kind": kind}, "scaffold").render(messages)
    assert caught.value.field == field
