"""Scaffolds without markers: they keep every message verbatim."""

from collections.abc import Sequence

from bosal_decoding.scaffolds.scaffold import Message, Scaffold, Writer


class RawScaffold(Scaffold):
    kind = "raw"
    summary = "The instruction verbatim; turns of a conversation are joined by nothing."
    source = "plain continuation"

    def _write(self, writer: Writer, messages: Sequence[Message]) -> None:
        for message in messages:
            writer.message(message, message.text)


class PlainScaffold(Scaffold):
    kind = "plain"
    summary = "The instruction and a newline; so for every turn of a conversation."
    source = "the baseline of base-model evaluations"

    def _write(self, writer: Writer, messages: Sequence[Message]) -> None:
        for message in messages:
            writer.message(message, message.text)
            writer.constant("\n")
