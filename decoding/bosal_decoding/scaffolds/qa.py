"""The scaffold of marked questions and answers."""

from collections.abc import Sequence
from typing import Literal

from bosal_decoding.scaffolds.markers import LongText, Marker, neutralise
from bosal_decoding.scaffolds.scaffold import Message, Scaffold, Writer


class QaScaffold(Scaffold):
    kind = "qa"
    summary = "Question and answer, each behind its mark, without examples."
    source = "Brown et al. 2020, arXiv:2005.14165 (closed-book question answering)"

    preamble: LongText = ""
    """A text before the first question."""
    question: Marker = "Question:"
    """The mark before an instruction."""
    answer: Marker = "Answer:"
    """The mark before an answer."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        return (f"\n{self.question}", f"\n{self.answer}")

    def _write(self, writer: Writer, messages: Sequence[Message]) -> None:
        if self.preamble:
            writer.constant(f"{self.preamble.strip()}\n\n")
        write_marked(writer, messages, self.question, self.answer)

    @property
    def lead(self) -> Literal["", " "]:
        return " "


def write_marked(writer: Writer, messages: Sequence[Message], question: str, answer: str) -> None:
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
