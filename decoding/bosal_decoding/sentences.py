"""Where sentences end, as far as punctuation tells."""

from typing import Final

MARKS: Final = ".!?…。！？"
# May stand between a sentence's mark and the space behind it.
CLOSERS: Final = "\"'”’»›)]}*_`」』）"


def ends_sentence(text: str) -> bool:
    """Whether the last thing said is a whole sentence; closing quotes and spaces may follow it."""
    return text.rstrip().rstrip(CLOSERS).endswith(tuple(MARKS))
