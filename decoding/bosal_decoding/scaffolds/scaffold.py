"""What a scaffold is: a form that turns a conversation into the text a base model continues."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from bosal_decoding.errors import InvalidConversation
from bosal_decoding.schema import Schema, join_field


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

    drop_oldest: bool = False
    """Whether a conversation that leaves the answer no room loses its oldest turns, and then the
    first examples, instead of being refused."""

    @property
    def num_examples(self) -> int:
        """How many examples it shows."""
        return 0

    def without_examples(self, count: int) -> "Scaffold":
        """The same with so many examples less; the first ones go."""
        return self

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
        return [self._rendered(messages, messages[-1].text)]

    def render_instead(self, messages: Sequence[Message], text: str) -> Rendered:
        """Render a conversation with another text, or none, where its last message stands.

        All else is as with that message, examples chosen by it included.
        """
        _check(messages)
        others = [*messages[:-1], Message(role="user", text=text)]
        return self._rendered(others, messages[-1].text)

    def _rendered(self, messages: Sequence[Message], question: str) -> Rendered:
        writer = Writer(question)
        self._write(writer, messages)
        return writer.rendered()

    @abstractmethod
    def _write(self, writer: "Writer", messages: Sequence[Message]) -> None:
        """Write the one stream's text."""


class Writer:
    """Collects text, remembering what the user wrote and where the constant part ends."""

    def __init__(self, question: str) -> None:
        """`question` is what was asked last, whether it is written or not."""
        self.question = question
        self._parts: list[str] = []
        self._length = 0
        self._spans: list[tuple[int, int]] = []
        self._stable: int | None = None

    def constant(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def chosen(self, text: str) -> None:
        """Write what depends on the question, but is none of it."""
        self._end_stable()
        self.constant(text)

    def message(self, message: Message, text: str) -> None:
        self._end_stable()
        start = self._length
        self.constant(text)
        if message.role == "user":
            self._spans.append((start, self._length))

    def _end_stable(self) -> None:
        if self._stable is None:
            self._stable = self._length

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
