"""Rules that end an answer behind so many sentences or paragraphs.

What was counted is kept, with where it was, so that a token costs as much as it adds to the text.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bosal_decoding.sentences import find_sentences, open_mark
from bosal_decoding.watching import SPACE, Cut, Watch, Watcher, num_trailing_spaces

# Bytes before a mark that say whether it ends a sentence: nine characters.
_CONTEXT_BYTES: Final = 64


@dataclass(frozen=True)
class SentenceWatcher(Watcher):
    """Ends behind the n-th sentence, once it is clear that it has ended."""

    count: int

    def watch(self) -> Watch:
        return _Sentences(self.count)


@dataclass(frozen=True)
class ParagraphWatcher(Watcher):
    """Ends before the blank line that closes the n-th paragraph."""

    count: int

    def watch(self) -> Watch:
        return _Paragraphs(self.count)


class _Sentences:
    """The ends of one text's sentences."""

    def __init__(self, count: int) -> None:
        self._count = count
        # Bytes that were read for good, and the sentences that ended in them; one for each number.
        self._read: list[tuple[int, int]] = [(0, 0)]

    def look(self, text: bytearray, num_new: int, tokens: Sequence[int]) -> Cut | None:
        read, number = self._read[-1]
        before = text[_character(text, max(read - _CONTEXT_BYTES, 0)) : read]
        context = before.decode(errors="surrogateescape")
        # Bytes that are no text keep their places; half a character waits for the rest.
        new, _ = codecs.utf_8_decode(text[read:], "surrogateescape", False)
        said = context + new
        behind = len(context)
        for _, end in find_sentences(said, len(context)):
            number += 1
            if number == self._count:
                return Cut(read + _num_bytes(said[len(context) : end]))
            # What follows the last of them may belong to it.
            if end < len(said):
                behind = end
            else:
                number -= 1
        open_at = open_mark(said, behind)
        read += _num_bytes(said[len(context) : open_at])
        if number == self._read[-1][1]:
            self._read[-1] = (read, number)
        else:
            self._read.append((read, number))
        return None

    def num_held(self, text: bytearray) -> int:
        return 0

    def rewind(self, num_bytes: int) -> None:
        # What stood behind a sentence ended it.
        while self._read and self._read[-1][0] >= num_bytes:
            self._read.pop()
        if not self._read:
            self._read = [(0, 0)]


class _Paragraphs:
    """The paragraphs of one text that are closed."""

    def __init__(self, count: int) -> None:
        self._count = count
        # Behind every line that has ended: the bytes so far, the paragraphs that are closed, and
        # whether another is open.
        self._lines: list[tuple[int, int, bool]] = [(0, 0, False)]

    def look(self, text: bytearray, num_new: int, tokens: Sequence[int]) -> Cut | None:
        begin, number, is_open = self._lines[-1]
        while (end := text.find(b"\n", begin)) >= 0:
            if text[begin:end].strip():
                is_open = True
            elif is_open:
                number, is_open = number + 1, False
                if number == self._count:
                    return Cut(len(text[:begin].rstrip(SPACE)))
            begin = end + 1
            self._lines.append((begin, number, is_open))
        return None

    def num_held(self, text: bytearray) -> int:
        return num_trailing_spaces(text)

    def rewind(self, num_bytes: int) -> None:
        while self._lines[-1][0] > num_bytes:
            self._lines.pop()


def _character(text: bytearray, at: int) -> int:
    """Return where a character begins, at a place or a few bytes behind it."""
    end = at + 3 if at else 0
    while at < end and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def _num_bytes(text: str) -> int:
    return len(text.encode(errors="surrogateescape"))
