"""Turns the bytes of tokens into text, piece by piece."""

import codecs

_make_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Decodes one choice's bytes; never gives out half a character.

    Bytes that are no UTF-8 become U+FFFD as soon as that is certain.
    """

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = _make_decoder(errors="replace")

    def feed(self, data: bytes) -> str:
        """Return the characters that these bytes complete."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Return what an unfinished character at the end becomes."""
        return self._decoder.decode(b"", final=True)
