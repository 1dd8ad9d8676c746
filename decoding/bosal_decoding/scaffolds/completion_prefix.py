"""The scaffold of a template whose end begins the answer."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import AfterValidator

from bosal_decoding.scaffolds.markers import LongText, neutralise, neutralise_lines
from bosal_decoding.scaffolds.scaffold import Message, Scaffold, Writer

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

    template: Annotated[LongText, AfterValidator(_one_place)]
    """Any text that holds `{instruction}` once; all else is literal. It is written for every turn,
    so that turns before the last are followed by their answers and an empty line."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        lines = [line.strip() for part in self.template.split(_PLACE) for line in part.split("\n")]
        return tuple(f"\n{line}" for line in lines if len(line) > 1)

    def _write(self, writer: Writer, messages: Sequence[Message]) -> None:
        before, after = self.template.split(_PLACE)
        markers = self.turn_marks
        for message in messages:
            is_question = message.role == "user"
            writer.constant(before if is_question else self.lead)
            begins_line = before[-1:] in ("", "\n") if is_question else not self.lead
            text = message.text.strip()
            clean = neutralise_lines if begins_line else neutralise
            writer.message(message, clean(text, markers))
            writer.constant(after if is_question else "\n\n")

    @property
    def lead(self) -> Literal["", " "]:
        return "" if self.template[-1].isspace() else " "
