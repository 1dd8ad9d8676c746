"""Rules that end an answer by what its text has become, beyond fixed strings.

Each looks at the whole output after every token and keeps nothing, so taking tokens back needs no
word here. What it cuts off must not have been given out: `num_held` bytes at the end are held.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

import re2

from bosal_decoding.sentences import MARKS, ends_sentence, sentence_ends

_SPACE: Final = b" \t\n\r\f\v"
_MARKS: Final = tuple(mark.encode() for mark in MARKS)


@dataclass(frozen=True, slots=True)
class Cut:
    """The answer ends at byte `start`; `string` is what matched there, if that is of use."""

    start: int
    string: bytes = b""


@dataclass(frozen=True)
class Watcher(ABC):
    """Looks for one reason to end an answer."""

    # A name of the wire's finish reasons.
    reason: ClassVar[str] = "STOP_RULE"

    @abstractmethod
    def look(self, text: bytes, num_new: int, tokens: Sequence[int]) -> Cut | None:
        """Say whether the answer ends; the last `num_new` bytes are those of the last token."""

    def num_held(self, text: bytes) -> int:
        """How many bytes at the end of a text that goes on may yet be cut off."""
        return 0


@dataclass(frozen=True)
class PatternWatcher(Watcher):
    """Ends where a regular expression first matches, at the byte that completes the match."""

    pattern: str  # RE2 syntax, without anchors
    max_bytes: int  # of a match

    def look(self, text: bytes, num_new: int, tokens: Sequence[int]) -> Cut | None:
        for end in range(len(text) - num_new + 1, len(text) + 1):
            begin = max(end - self.max_bytes, 0)
            match = self._ending.search(text[begin:end])
            if match is not None:
                return Cut(begin + match.start(), match.group())
        return None

    def num_held(self, text: bytes) -> int:
        return min(self.max_bytes - 1, len(text))

    @cached_property
    def _ending(self) -> Any:
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True
        return re2.compile(rf"(?:{self.pattern})\z", options)


@dataclass(frozen=True)
class LoopWatcher(Watcher):
    """Ends when the output ends with one run of tokens, over and over."""

    reason = "LOOP"
    times: int
    max_period: int
    min_tokens: int

    def look(self, text: bytes, num_new: int, tokens: Sequence[int]) -> Cut | None:
        last = tokens[-1]
        for period in range(1, min(self.max_period, len(tokens) // self.times) + 1):
            if tokens[-1 - period] != last:
                continue
            length = max(self.times * period, self.min_tokens)
            if length > len(tokens):
                continue
            end = tokens[-length:]
            if end[period:] == end[:-period]:
                return Cut(len(text))
        return None


@dataclass(frozen=True)
class SpaceWatcher(Watcher):
    """Ends before a run of white space that is too long."""

    max_run: int  # bytes

    def look(self, text: bytes, num_new: int, tokens: Sequence[int]) -> Cut | None:
        start = max(len(text) - num_new - self.max_run - 1, 0)
        run = 0
        for end in range(start, len(text)):
            run = run + 1 if text[end] in _SPACE else 0
            if run > self.max_run:
                return Cut(end + 1 - run)
        return None

    def num_held(self, text: bytes) -> int:
        return len(text) - len(text.rstrip(_SPACE))


@dataclass(frozen=True)
class SentenceWatcher(Watcher):
    """Ends behind the n-th sentence, once it is clear that it has ended."""

    count: int

    def look(self, text: bytes, num_new: int, tokens: Sequence[int]) -> Cut | None:
        # Every sentence has a mark: a long text is read only once it may have enough of them.
        if sum(map(text.count, _MARKS)) < self.count:
            return None
        # Bytes that are no text keep their places: the cut is counted in bytes.
        said = text.decode(errors="surrogateescape")
        ends = sentence_ends(said)
        if len(ends) < self.count:
            return None
        return Cut(len(said[: ends[self.count - 1]].encode(errors="surrogateescape")))


@dataclass(frozen=True)
class ParagraphWatcher(Watcher):
    """Ends before the blank line that closes the n-th paragraph."""

    count: int

    def look(self, text: bytes, num_new: int, tokens: Sequence[int]) -> Cut | None:
        lines = text.split(b"\n")
        place, number, is_inside = 0, 0, False
        # The last line has not ended.
        for line in lines[:-1]:
            if line.strip():
                is_inside = True
            elif is_inside:
                number += 1
                is_inside = False
                if number == self.count:
                    return Cut(len(text[:place].rstrip(_SPACE)))
            place += len(line) + 1
        return None

    def num_held(self, text: bytes) -> int:
        return len(text) - len(text.rstrip(_SPACE))


@dataclass(frozen=True)
class BudgetWatcher(Watcher):
    """Ends at the first finished sentence once the budget is used, at the latest after `grace`."""

    tokens: int
    grace: int

    def look(self, text: bytes, num_new: int, tokens: Sequence[int]) -> Cut | None:
        if len(tokens) < self.tokens:
            return None
        is_over = len(tokens) >= self.tokens + self.grace
        if is_over or ends_sentence(text[-64:].decode(errors="ignore")):
            return Cut(len(text))
        return None
