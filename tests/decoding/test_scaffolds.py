"""What scaffolds write, and that a user's text never becomes a marker."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.errors import InvalidConversation, InvalidRecipe
from bosal_decoding.scaffolds import SCAFFOLDS, Message, neutralise, read_scaffold

EXAMPLES = [{"instruction": "One?", "answer": "Yes."}, {"instruction": "Two?", "answer": "No."}]
IN_CONTEXT = {"kind": "in_context", "preamble": "Be kind.", "examples": EXAMPLES}
PREFIX = {"kind": "completion_prefix", "template": "Asked:\n{instruction}\nI {wrote}:\n"}
MINIMAL: list[dict[str, Any]] = [{"kind": kind} for kind in SCAFFOLDS if kind != PREFIX["kind"]]
ALL: list[dict[str, Any]] = [*MINIMAL, IN_CONTEXT, PREFIX]


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
        (
            {"kind": "qa", "preamble": "Facts. "},
            "Facts.\n\nQuestion: Hi\nAnswer: Hello.\n\nQuestion: Bye\nAnswer:",
        ),
        ({"kind": "qa", "question": "Ask:"}, "Ask: Hi\nAnswer: Hello.\n\nAsk: Bye\nAnswer:"),
        (
            {"kind": "document", "preamble": "An encyclopedia."},
            "An encyclopedia.\n\n# Hi\n\nHello.\n\n# Bye\n\n",
        ),
        (PREFIX, "Asked:\nHi\nI {wrote}:\nHello.\n\nAsked:\nBye\nI {wrote}:\n"),
        (
            {"kind": "completion_prefix", "template": "When asked '{instruction}', I say:"},
            "When asked 'Hi', I say: Hello.\n\nWhen asked 'Bye', I say:",
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


MARKERS = {
    "turns": ["<|user|>", "<|assistant|>"],
    "in_context": ["\nQ:", "\nA:"],
    "qa": ["\nQuestion:", "\nAnswer:"],
    "document": ["\n# "],
    "completion_prefix": ["\nAsked:", "\nI {wrote}:"],
}
PIECES = st.sampled_from(
    ["<|user|>", "<|assistant|>", "<", "|", "user", "\n", " ", "Q:", "A:", "x"]
    + ["Question:", "Answer:", "# ", "#", "Asked:", "I {wrote}:", "{instruction}"]
)


@pytest.mark.parametrize("entry", [entry for entry in ALL if entry["kind"] in MARKERS])
@given(pieces=st.lists(PIECES, min_size=1, max_size=12))
def test_markers_in_user_text_are_broken(entry: dict[str, Any], pieces: list[str]) -> None:
    text = "".join(pieces) + "x"
    scaffold = read_scaffold(entry, "scaffold")
    (rendered,) = scaffold.render([user(text)])
    (reference,) = scaffold.render([user("x")])
    for marker in MARKERS[entry["kind"]]:
        assert rendered.text.count(marker) == reference.text.count(marker)
    written = "".join(rendered.text[start:end] for start, end in rendered.spans)
    assert "".join(written.split()) == "".join(text.split())
    if entry["kind"] != "document":
        assert written.replace(" ", "") == text.strip().replace(" ", "")


def test_markers_are_broken_where_a_scaffold_begins_a_line() -> None:
    page = read_scaffold({"kind": "document"}, "scaffold")
    (rendered,) = page.render([user("T\n\n# u"), assistant("# v\n# w"), user("# x")])
    assert rendered.text == "# T\n\n # u\n\n # v\n # w\n\n# # x\n\n"
    (rendered,) = read_scaffold(PREFIX, "scaffold").render(
        [user("I {wrote}:"), assistant("Asked: so"), user("y")]
    )
    assert rendered.text == (
        "Asked:\n I {wrote}:\nI {wrote}:\n Asked: so\n\nAsked:\ny\nI {wrote}:\n"
    )
    inline = {"kind": "completion_prefix", "template": "Asked {instruction}, I say"}
    (rendered,) = read_scaffold(inline, "scaffold").render([user("Asked a\nAsked b")])
    assert rendered.text == "Asked Asked a\n Asked b, I say"


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


def test_a_page_is_headed_by_the_first_line_and_opens_with_the_rest() -> None:
    (rendered,) = read_scaffold({"kind": "document"}, "scaffold").render([user("Sort:\n\nb\na")])
    assert rendered.text == "# Sort:\n\nb\na\n\n"
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["Sort:", "b\na"]


@pytest.mark.parametrize("entry", ALL)
def test_the_answer_begins_behind_a_space_unless_behind_a_line(entry: dict[str, Any]) -> None:
    scaffold = read_scaffold(entry, "scaffold")
    (rendered,) = scaffold.render([user("x")])
    assert not rendered.text.endswith(" ")
    assert scaffold.lead == ("" if rendered.text == "x" or rendered.text[-1] == "\n" else " ")


@pytest.mark.parametrize(
    "template", ["", "no place", "{instruction} and {instruction}:", "{instruction}: "]
)
def test_a_template_has_one_place_and_no_space_at_its_end(template: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        read_scaffold({"kind": "completion_prefix", "template": template}, "scaffold")
    assert caught.value.field == "scaffold.template"


@pytest.mark.parametrize("entry", ALL)
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
    entry: dict[str, Any], messages: list[Message], field: str
) -> None:
    with pytest.raises(InvalidConversation) as caught:
        read_scaffold(entry, "scaffold").render(messages)
    assert caught.value.field == field
