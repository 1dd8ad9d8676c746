"""Tokens as people read them: the text that each one adds, whatever bytes it is cut at."""

import codecs
from collections.abc import Sequence

__all__ = ["quoted", "texts"]


def texts(token_bytes: Sequence[bytes]) -> list[str]:
    """The text each token adds; a character in several tokens comes with its last one."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found = [decoder.decode(one) for one in token_bytes]
    if found:
        found[-1] += decoder.decode(b"", final=True)
    return found


def quoted(token_bytes: bytes) -> str:
    """A token on one line, between quotes; empty is the end of the text."""
    if not token_bytes:
        return "<end>"
    text = token_bytes.decode(errors="replace")
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return f'"{shown}"'
