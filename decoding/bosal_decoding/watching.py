"""Rules that end an answer by what its text has become, beyond fixed strings.

Those here look at the end of the output after every token and keep nothing, so taking tokens back
needs no word; those that count ends (`counted_ends`) follow a text. What a watcher cuts off must
not have been given out: `num_held` bytes at the end are held.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Protocol

import re2

from bosal_decoding.sentences import ends_sentence

SPACE: Final = b" \t\n\r\f\v"
# A run of white space at the end is mostly shorter.
_SHORT_RUN: Final = 256


@dataclass(frozen=True, slots=True)
class Cut:
    """The answer ends at byte `start`; `string` is what matched there, if that is of use."""

    start: int
    string: bytes = b""


class Watch(Protocol):
    """A watcher at one choice's text; the text it is given is not its own to keep."""

    def look(self, text: bytearray, num_new: int, tokens: Sequence[int]) -> Cut | None:
        """Say whether the answer ends; the last `num_new` bytes are those of the last token."""

    def num_held(self, text: bytearray) -> int:
        """How many bytes at the end of a text that goes on may yet be cut off."""

    def rewind(self, num_bytes: int) -> None:
        """Only the first bytes of the text are left."""


@dataclass(frozen=True)
class Watcher(ABC):
    """Looks for one reason to end an answer."""

    # A name of the wire's finish reasons.
    reason: ClassVar[str] = "STOP_RULE"

    @abstractmethod
    def watch(self) -> Watch:
        """Begin with a choice's text."""


@dataclass(frozen=True)
class _TailWatcher(Watcher):
    """Reads the end of the text alone, so one serves all choices."""

    def watch(self) -> Watch:
        return self

    @abstractmethod
    def look(self, text: bytearray, num_new: int, tokens: Sequence[int]) -> Cut | None: ...

    def num_held(self, text: bytearray) -> int:
        return 0

    def rewind(self, num_bytes: int) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class PatternWatcher(_TailWatcher):
    """Ends where a regular expression first matches, at the byte that completes the match."""

    pattern: str  # RE2 syntax, without anchors
    max_bytes: int  # of a match

    def look(self, text: bytearray, num_new: int, tokens: Sequence[int]) -> Cut | None:
        for end in range(len(text) - num_new + 1, len(text) + 1):
            begin = max(end - self.max_bytes, 0)
            match = self._ending.search(bytes(text[begin:end]))
            if match is not None:
                return Cut(begin + match.start(), match.group())
        return None

    def num_held(self, text: bytearray) -> int:
        return min(self.max_bytes - 1, len(text))

    @cached_property
    def _ending(self) -> Any:
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True
        return re2.compile(rf"(?:{self.pattern})\z", options)


@dataclass(frozen=True)
class LoopWatcher(_TailWatcher):
    """Ends when the output ends with one run of tokens, over and over."""

    reason = "LOOP"
    times: int
    max_period: int
    min_tokens: int

    def look(self, text: bytearray, num_new: int, tokens: Sequence[int]) -> Cut | None:
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
class SpaceWatcher(_TailWatcher):
    """Ends before a run of white space that is too long."""

    max_run: int  # bytes

    def look(self, text: bytearray, num_new: int, tokens: Sequence[int]) -> Cut | None:
        start = max(len(text) - num_new - self.max_run - 1, 0)
        run = 0
        for end in range(start, len(text)):
            run = run + 1 if text[end] in SPACE else 0
            if run > self.max_run:
                return Cut(end + 1 - run)
        return None

    def num_held(self, text: bytearray) -> int:
        return num_trailing_spaces(text)


@dataclass(frozen=True)
class BudgetWatcher(_TailWatcher):
    """Ends at the first finished sentence once the budget is used, at the latest after `grace`."""

    tokens: int
    grace: int

    def look(self, text: bytearray, num_new: int, tokens: Sequence[int]) -> Cut | None:
        if len(tokens) < self.tokens:
            return None
        is_over = len(tokens) >= self.tokens + self.grace
        # Half a character is no end: what follows the sentence has begun.
        if is_over or ends_sentence(text[-64:].decode(errors="replace")):
            return Cut(len(text))
        return None


def num_trailing_spaces(text: bytearray) -> int:
    """Count the white space at the end."""
    end = text[-_SHORT_RUN:]
    run = len(end) - len(end.rstrip(SPACE))
    return run if run < len(end) else len(text) - len(text.rstrip(SPACE))
