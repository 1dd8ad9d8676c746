"""Turns the bytes of tokens into text, piece by piece."""

import codecs

_make_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Decodes one choice's bytes; never gives out half a character.

    Bytes that are no UTF-8 become U+FFFD as soon as that is certain. A text that begins with
    `lead`, at most one character, comes out without it.
    """

    __slots__ = ("_decoder", "_lead")

    def __init__(self, lead: str = "") -> None:
        self._decoder = _make_decoder(errors="replace")
        self._lead = lead

    def feed(self, data: bytes) -> str:
        """Return the characters that these bytes complete."""
        text = self._decoder.decode(data)
        if self._lead and text:
            text, self._lead = text.removeprefix(self._lead), ""
        return text

    def flush(self) -> str:
        """Return what an unfinished character at the end becomes."""
        return self._decoder.decode(b"", final=True)
