"""The scaffold of role tags."""

from collections.abc import Sequence

from bosal_decoding.scaffolds.markers import Marker, neutralise
from bosal_decoding.scaffolds.scaffold import Message, Scaffold, Writer


class TurnsScaffold(Scaffold):
    kind = "turns"
    summary = "Role tags on their own lines around every turn."
    source = "Hewitt et al. 2024, arXiv:2409.14254 (the Tulu format)"

    user: Marker = "<|user|>"
    """The tag before a user's turn."""
    assistant: Marker = "<|assistant|>"
    """The tag before an answer."""

    @property
    def turn_marks(self) -> tuple[str, ...]:
        return (self.user, self.assistant)

    def _write(self, writer: Writer, messages: Sequence[Message]) -> None:
        markers = (self.user, self.assistant)
        for message in messages:
            tag = self.user if message.role == "user" else self.assistant
            writer.constant(f"{tag}\n")
            writer.message(message, neutralise(message.text.strip(), markers))
            writer.constant("\n")
        writer.constant(f"{self.assistant}\n")
