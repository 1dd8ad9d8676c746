"""Where sentences end, as far as punctuation tells."""

import re
from typing import Final

MARKS: Final = ".!?…。！？"
# May stand between a sentence's mark and the space behind it.
CLOSERS: Final = "\"'”’»›)]}*_`」』）"


def ends_sentence(text: str) -> bool:
    """Whether the last thing said is a whole sentence; closing quotes and spaces may follow it."""
    return text.rstrip().rstrip(CLOSERS).endswith(tuple(MARKS))


def sentence_ends(text: str) -> list[int]:
    """Return the offsets behind the sentences that are over, closing quotes included.

    A mark counts when a space follows it, one of Chinese or Japanese at once. Initials, common
    titles and the numbers of a list end nothing.
    """
    return [
        match.end()
        for match in _END.finditer(text)
        if not _NO_END.search(text, max(match.start() - 8, 0), match.start() + 1)
    ]


_END: Final = re.compile(rf"[.!?…]+[{re.escape(CLOSERS)}]*(?=\s)|[。！？]+[{re.escape(CLOSERS)}]*")
_NO_END: Final = re.compile(
    r"(?:\b[A-HJ-Z]|\be\.g|\bi\.e|\bMrs?|\bMs|\bDr|\bSt|\bvs|(?:\A|\n)\s*\d{1,3})\.\Z"
)
