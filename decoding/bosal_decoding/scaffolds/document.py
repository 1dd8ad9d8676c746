"""The scaffold of a page that holds the answer."""

from collections.abc import Sequence

from bosal_decoding.scaffolds.markers import LongText, neutralise_lines
from bosal_decoding.scaffolds.scaffold import Message, Scaffold, Writer


class DocumentScaffold(Scaffold):
    kind = "document"
    summary = (
        "A page headed by the instruction's first line; the answer is its text, "
        "up to the next heading if a stop string is a line break and `# `."
    )
    source = "Reynolds and McDonell 2021, arXiv:2102.07350 (the document that holds the answer)"

    preamble: LongText = ""
    """A text before the page, such as what kind of pages these are."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        return ("\n# ",)

    def _write(self, writer: Writer, messages: Sequence[Message]) -> None:
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
                writer.message(message, neutralise_lines(text.strip("\n"), ("\n# ",)))
                writer.constant("\n\n")
