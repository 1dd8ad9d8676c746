"""Where sentences end, as far as punctuation tells."""

import re
from collections.abc import Iterator
from typing import Final

MARKS: Final = ".!?…。！？"
# May stand between a sentence's mark and the space behind it.
CLOSERS: Final = "\"'”’»›)]}*_`」』）"


def ends_sentence(text: str) -> bool:
    """Whether the last thing said is a whole sentence; closing quotes and spaces may follow it."""
    return text.rstrip().rstrip(CLOSERS).endswith(tuple(MARKS))


def find_sentences(text: str, begin: int = 0) -> Iterator[tuple[int, int]]:
    """Yield where the marks of sentences that are over begin, from a place on, and end.

    Closing quotes are included. A mark counts when a space follows it, one of Chinese or Japanese
    at once. Initials, common titles and the numbers of a list end nothing.
    """
    for match in _END.finditer(text, begin):
        if not _NO_END.search(text, max(match.start() - 8, 0), match.start() + 1):
            yield match.span()


def open_mark(text: str, begin: int) -> int:
    """Return where a mark begins whose sentence what follows the text may end; else its end."""
    match = _OPEN.search(text, begin)
    return len(text) if match is None else match.start()


_END: Final = re.compile(rf"[.!?…]+[{re.escape(CLOSERS)}]*(?=\s)|[。！？]+[{re.escape(CLOSERS)}]*")
_OPEN: Final = re.compile(rf"[{MARKS}]+[{re.escape(CLOSERS)}]*\Z")
_NO_END: Final = re.compile(
    r"(?:\b[A-HJ-Z]|\be\.g|\bi\.e|\bMrs?|\bMs|\bDr|\bSt|\bvs|(?:\A|\n)\s*\d{1,3})\.\Z"
)
