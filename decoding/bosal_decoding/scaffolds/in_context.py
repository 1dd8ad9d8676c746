"""The scaffold of worked examples."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from bosal_decoding.limits import MAX_EXAMPLES
from bosal_decoding.scaffolds.markers import LongText, Marker
from bosal_decoding.scaffolds.qa import write_marked
from bosal_decoding.scaffolds.scaffold import Message, Scaffold, Writer
from bosal_decoding.schema import Schema


class Example(Schema):
    """One worked example."""

    instruction: Annotated[LongText, Field(min_length=1)]
    """What is asked."""
    answer: Annotated[LongText, Field(min_length=1)]
    """The answer to imitate."""


class InContextScaffold(Scaffold):
    kind = "in_context"
    summary = "A preamble, worked examples, and the instruction in the same form."
    source = "URIAL (Lin et al. 2023), arXiv:2312.01552"

    preamble: LongText = ""
    """A text before the examples."""
    examples: Annotated[tuple[Example, ...], Field(max_length=MAX_EXAMPLES, strict=False)] = ()
    """Worked examples, each with `instruction` and `answer`."""
    question: Marker = "Q:"
    """The mark before an instruction."""
    answer: Marker = "A:"
    """The mark before an answer."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        return (f"\n{self.question}", f"\n{self.answer}")

    def _write(self, writer: Writer, messages: Sequence[Message]) -> None:
        if self.preamble:
            writer.constant(f"{self.preamble.strip()}\n\n")
        for example in self.examples:
            question, answer = example.instruction.strip(), example.answer.strip()
            writer.constant(f"{self.question} {question}\n{self.answer} {answer}\n\n")
        write_marked(writer, messages, self.question, self.answer)

    @property
    def lead(self) -> Literal["", " "]:
        return " "
