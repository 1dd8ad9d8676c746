"""The scaffold of worked examples."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bosal_decoding.limits import MAX_CHOICE, MAX_EXAMPLES
from bosal_decoding.scaffolds.markers import LongText, Marker
from bosal_decoding.scaffolds.qa import write_marked
from bosal_decoding.scaffolds.scaffold import Message, Scaffold, Writer
from bosal_decoding.scaffolds.similarity import Similarity
from bosal_decoding.schema import Schema, whole


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
    examples: Annotated[tuple[Example, ...], Field(max_length=MAX_CHOICE, strict=False)] = ()
    """Worked examples, each with `instruction` and `answer`; more than 64 only with `choose`. In a
    file of the recipe folder `examples_file: NAME.jsonl` takes them from a file beside it."""
    choose: Annotated[int, Field(ge=1, le=MAX_EXAMPLES), whole] | None = None
    """Show so many examples, those whose instruction is most like the last message by BM25, the
    best one last; unset shows all, in their order."""
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
        shown = self.examples if self.choose is None else self._chosen(writer.question)
        write = writer.constant if self.choose is None else writer.chosen
        for example in shown:
            question, answer = example.instruction.strip(), example.answer.strip()
            write(f"{self.question} {question}\n{self.answer} {answer}\n\n")
        write_marked(writer, messages, self.question, self.answer)

    @model_validator(mode="after")
    def _shows_few(self) -> "InContextScaffold":
        if self.choose is None and len(self.examples) > MAX_EXAMPLES:
            raise ValueError(
                f"{len(self.examples)} examples; more than {MAX_EXAMPLES} need 'choose'"
            )
        if self.choose is not None and not self.examples:
            raise ValueError("'choose' needs 'examples'")
        return self

    @property
    def num_examples(self) -> int:
        return len(self.examples) if self.choose is None else min(self.choose, len(self.examples))

    def without_examples(self, count: int) -> "InContextScaffold":
        left = self.num_examples - count
        if not left:
            return self.model_copy(update={"examples": (), "choose": None})
        if self.choose is not None:
            return self.model_copy(update={"choose": left})
        return self.model_copy(update={"examples": self.examples[count:]})

    def _chosen(self, question: str) -> list[Example]:
        best = self._similarity.best(question, self.choose or 0)
        return [self.examples[place] for place in reversed(best)]

    @cached_property
    def _similarity(self) -> Similarity:
        return Similarity([example.instruction for example in self.examples])

    @property
    def lead(self) -> Literal["", " "]:
        return " "
