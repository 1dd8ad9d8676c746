"""Scaffolds: how a conversation becomes the text a base model continues.

A scaffold's own markers inside a message are neutralised, never obeyed: one space is put behind
the marker's first character (`<|user|>` becomes `< |user|>`; a line that begins with `Q:` is
indented). `raw` and `plain` have no markers and keep every message verbatim.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from bosal_decoding.errors import InvalidConversation, InvalidRecipe, UnknownName
from bosal_decoding.limits import MAX_EXAMPLE_BYTES, MAX_EXAMPLES, MAX_MARKER_CHARS
from bosal_decoding.schema import Schema, Text, at_most_bytes, join_field


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One stream's prompt text, and which characters of it the user wrote."""

    text: str
    spans: tuple[tuple[int, int], ...]
    # Leading characters that are the same for every conversation.
    stable_chars: int


class Scaffold(Schema, ABC):
    """A way to turn a conversation into prompts, one per stream."""

    kind: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]

    @property
    def lead(self) -> Literal["", " "]:
        """What stands between prompt and answer in this form; not part of the answer's text."""
        return ""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        """What a model writes that goes on with a turn of its own; none where nothing marks one."""
        return ()

    def render(self, messages: Sequence[Message]) -> list[Rendered]:
        """Render a conversation that ends with a user message."""
        _check(messages)
        return [self._rendered(messages)]

    def render_unasked(self, messages: Sequence[Message]) -> Rendered:
        """Render a conversation with nothing where its last message stands."""
        _check(messages)
        return self._rendered([*messages[:-1], Message(role="user", text="")])

    def _rendered(self, messages: Sequence[Message]) -> Rendered:
        writer = _Writer()
        self._write(writer, messages)
        return writer.rendered()

    @abstractmethod
    def _write(self, writer: "_Writer", messages: Sequence[Message]) -> None:
        """Write the one stream's text."""


class _Writer:
    """Collects text, remembering what the user wrote and where the constant part ends."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._spans: list[tuple[int, int]] = []
        self._stable: int | None = None

    def constant(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def message(self, message: Message, text: str) -> None:
        if self._stable is None:
            self._stable = self._length
        start = self._length
        self.constant(text)
        if message.role == "user":
            self._spans.append((start, self._length))

    def rendered(self) -> Rendered:
        text = "".join(self._parts)
        return Rendered(text=text, spans=tuple(self._spans), stable_chars=self._stable or 0)


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise InvalidConversation("there is no message", field="messages")
    for index, message in enumerate(messages):
        if not message.text.strip():
            field = join_field("messages", index, "text")
            raise InvalidConversation("the text is empty", field=field)
    if messages[-1].role != "user":
        field = join_field("messages", len(messages) - 1, "role")
        raise InvalidConversation("the last message must be the user's", field=field)


def neutralise(text: str, markers: Sequence[str]) -> str:
    """Put a space behind the first character of every marker until none is left."""
    patterns = [
        (re.compile(f"{re.escape(marker[0])}(?={re.escape(marker[1:])})"), marker[0] + " ")
        for marker in markers
    ]
    while any(marker in text for marker in markers):
        for pattern, broken in patterns:
            text = pattern.sub(lambda _, broken=broken: broken, text)  # type: ignore[misc]
    return text


def _neutralise_lines(text: str, markers: Sequence[str]) -> str:
    """Neutralise a text that begins a line, by markers that do."""
    return neutralise(f"\n{text}", markers)[1:]


def _tidy_marker(text: str) -> str:
    if text.strip() != text or not text.isprintable():
        raise ValueError("must be one line without spaces around it")
    return text


_Marker = Annotated[
    Text, Field(min_length=2, max_length=MAX_MARKER_CHARS), AfterValidator(_tidy_marker)
]
_LongText = Annotated[str, at_most_bytes(MAX_EXAMPLE_BYTES)]


class RawScaffold(Scaffold):
    kind = "raw"
    summary = "The instruction verbatim; turns of a conversation are joined by nothing."
    source = "plain continuation"

    def _write(self, writer: _Writer, messages: Sequence[Message]) -> None:
        for message in messages:
            writer.message(message, message.text)


class PlainScaffold(Scaffold):
    kind = "plain"
    summary = "The instruction and a newline; so for every turn of a conversation."
    source = "the baseline of base-model evaluations"

    def _write(self, writer: _Writer, messages: Sequence[Message]) -> None:
        for message in messages:
            writer.message(message, message.text)
            writer.constant("\n")


class TurnsScaffold(Scaffold):
    kind = "turns"
    summary = "Role tags on their own lines around every turn."
    source = "Hewitt et al. 2024, arXiv:2409.14254 (the Tulu format)"

    user: _Marker = "<|user|>"
    """The tag before a user's turn."""
    assistant: _Marker = "<|assistant|>"
    """The tag before an answer."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        return (self.user, self.assistant)

    def _write(self, writer: _Writer, messages: Sequence[Message]) -> None:
        markers = (self.user, self.assistant)
        for message in messages:
            tag = self.user if message.role == "user" else self.assistant
            writer.constant(f"{tag}\n")
            writer.message(message, neutralise(message.text.strip(), markers))
            writer.constant("\n")
        writer.constant(f"{self.assistant}\n")


class Example(Schema):
    """One worked example."""

    instruction: Annotated[_LongText, Field(min_length=1)]
    """What is asked."""
    answer: Annotated[_LongText, Field(min_length=1)]
    """The answer to imitate."""


class InContextScaffold(Scaffold):
    kind = "in_context"
    summary = "A preamble, worked examples, and the instruction in the same form."
    source = "URIAL (Lin et al. 2023), arXiv:2312.01552"

    preamble: _LongText = ""
    """A text before the examples."""
    examples: Annotated[tuple[Example, ...], Field(max_length=MAX_EXAMPLES, strict=False)] = ()
    """Worked examples, each with `instruction` and `answer`."""
    question: _Marker = "Q:"
    """The mark before an instruction."""
    answer: _Marker = "A:"
    """The mark before an answer."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        return (f"\n{self.question}", f"\n{self.answer}")

    def _write(self, writer: _Writer, messages: Sequence[Message]) -> None:
        if self.preamble:
            writer.constant(f"{self.preamble.strip()}\n\n")
        for example in self.examples:
            question, answer = example.instruction.strip(), example.answer.strip()
            writer.constant(f"{self.question} {question}\n{self.answer} {answer}\n\n")
        _write_marked(writer, messages, self.question, self.answer)

    @property
    def lead(self) -> Literal["", " "]:
        return " "


class QaScaffold(Scaffold):
    kind = "qa"
    summary = "Question and answer, each behind its mark, without examples."
    source = "Brown et al. 2020, arXiv:2005.14165 (closed-book question answering)"

    preamble: _LongText = ""
    """A text before the first question."""
    question: _Marker = "Question:"
    """The mark before an instruction."""
    answer: _Marker = "Answer:"
    """The mark before an answer."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        return (f"\n{self.question}", f"\n{self.answer}")

    def _write(self, writer: _Writer, messages: Sequence[Message]) -> None:
        if self.preamble:
            writer.constant(f"{self.preamble.strip()}\n\n")
        _write_marked(writer, messages, self.question, self.answer)

    @property
    def lead(self) -> Literal["", " "]:
        return " "


def _write_marked(writer: _Writer, messages: Sequence[Message], question: str, answer: str) -> None:
    """Write turns on marked lines; the last line is the answer's mark.

    No space follows that mark, for it would split the answer's first token.
    """
    markers = (f"\n{question}", f"\n{answer}")
    for index, message in enumerate(messages):
        is_question = message.role == "user"
        if index and is_question:
            writer.constant("\n\n")
        elif index:
            writer.constant("\n")
        writer.constant(f"{question if is_question else answer} ")
        writer.message(message, neutralise(message.text.strip(), markers))
    writer.constant(f"\n{answer}")


class DocumentScaffold(Scaffold):
    kind = "document"
    summary = (
        "A page headed by the instruction's first line; the answer is its text, "
        "up to the next heading if a stop string is a line break and `# `."
    )
    source = "Reynolds and McDonell 2021, arXiv:2102.07350 (the document that holds the answer)"

    preamble: _LongText = ""
    """A text before the page, such as what kind of pages these are."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        return ("\n# ",)

    def _write(self, writer: _Writer, messages: Sequence[Message]) -> None:
        if self.preamble:
            writer.constant(f"{self.preamble.strip()}\n\n")
        for message in messages:
            text = message.text.strip()
            if message.role == "user":
                title, _, text = text.partition("\n")
                writer.constant("# ")
                writer.message(message, title.rstrip())
                writer.constant("\n\n")
            if text:
                writer.message(message, _neutralise_lines(text.strip("\n"), ("\n# ",)))
                writer.constant("\n\n")


_PLACE: Final = "{instruction}"


def _one_place(template: str) -> str:
    if template.count(_PLACE) != 1:
        raise ValueError(f"must hold {_PLACE} exactly once")
    if template.endswith(" "):
        raise ValueError("must not end with a space, which would split the answer's first token")
    return template


class CompletionPrefixScaffold(Scaffold):
    kind = "completion_prefix"
    summary = "A template around the instruction, whose end is the beginning of the answer's text."
    source = "prefix prompts, Liu et al. 2021, arXiv:2107.13586"

    template: Annotated[_LongText, AfterValidator(_one_place)]
    """Any text that holds `{instruction}` once; all else is literal. It is written for every turn,
    so that turns before the last are followed by their answers and an empty line."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        lines = [line.strip() for part in self.template.split(_PLACE) for line in part.split("\n")]
        return tuple(f"\n{line}" for line in lines if len(line) > 1)

    def _write(self, writer: _Writer, messages: Sequence[Message]) -> None:
        before, after = self.template.split(_PLACE)
        markers = self.turn_marks
        for message in messages:
            is_question = message.role == "user"
            writer.constant(before if is_question else self.lead)
            begins_line = before[-1:] in ("", "\n") if is_question else not self.lead
            text = message.text.strip()
            clean = _neutralise_lines if begins_line else neutralise
            writer.message(message, clean(text, markers))
            writer.constant(after if is_question else "\n\n")

    @property
    def lead(self) -> Literal["", " "]:
        return "" if self.template[-1].isspace() else " "


SCAFFOLDS: Final[Mapping[str, type[Scaffold]]] = MappingProxyType(
    {
        scaffold.kind: scaffold
        for scaffold in (
            RawScaffold,
            PlainScaffold,
            TurnsScaffold,
            InContextScaffold,
            QaScaffold,
            DocumentScaffold,
            CompletionPrefixScaffold,
        )
    }
)


def read_scaffold(entry: object, field: str) -> Scaffold:
    """Parse `{kind: KIND, parameter: value, …}` found at `field` of a document."""
    if not isinstance(entry, Mapping):
        raise InvalidRecipe.at(field, "must be a mapping with the key 'kind'")
    params: dict[str, Any] = dict(entry)
    kind = params.pop("kind", None)
    where = join_field(field, "kind")
    if not isinstance(kind, str):
        raise InvalidRecipe.at(where, "is required" if kind is None else "must be text")
    if kind not in SCAFFOLDS:
        raise UnknownName("scaffold", kind, SCAFFOLDS, field=where)
    return SCAFFOLDS[kind].read(params, field)
