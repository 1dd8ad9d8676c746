"""Sets of code points: the character classes of regular expressions."""

import re
from collections.abc import Iterable, Sequence
from re import _constants as op  # type: ignore[attr-defined]
from typing import Any, Final

from bosal_decoding.constraints.errors import ConstraintUnsatisfiable

Ranges = tuple[tuple[int, int], ...]

_LAST: Final = 0x10FFFF
_SURROGATES: Final = (0xD800, 0xDFFF)
_DIGITS: Final[Ranges] = ((0x30, 0x39),)
_WORD: Final[Ranges] = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Final[Ranges] = ((0x09, 0x0D), (0x20, 0x20))
LINE_FEED: Final[Ranges] = ((0x0A, 0x0A),)


def members(items: Sequence[Any], flags: int) -> Ranges:
    """Return what a class of Python's parser holds."""
    negated = False
    ranges: list[tuple[int, int]] = []
    for kind, value in items:
        if kind is op.NEGATE:
            negated = True
        elif kind is op.LITERAL:
            ranges.append((value, value))
        elif kind is op.RANGE:
            ranges.append((value[0], value[1]))
        else:
            ranges.extend(_category(value))
    found = cased(_union(ranges), flags)
    return complement(found) if negated else found


def _category(name: Any) -> Ranges:
    table = {
        op.CATEGORY_DIGIT: _DIGITS,
        op.CATEGORY_WORD: _WORD,
        op.CATEGORY_SPACE: _SPACE,
        op.CATEGORY_NOT_DIGIT: complement(_DIGITS),
        op.CATEGORY_NOT_WORD: complement(_WORD),
        op.CATEGORY_NOT_SPACE: complement(_SPACE),
    }
    return table[name]


def cased(ranges: Ranges, flags: int) -> Ranges:
    """Add the other case where the flags ask for it."""
    return folded(ranges) if flags & re.IGNORECASE else ranges


def folded(ranges: Ranges) -> Ranges:
    """Add the other case of every ASCII letter."""
    more = []
    for low, high in ranges:
        for begin, end, shift in ((0x41, 0x5A, 0x20), (0x61, 0x7A, -0x20)):
            first, last = max(low, begin), min(high, end)
            if first <= last:
                more.append((first + shift, last + shift))
    return _union([*ranges, *more])


def _union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """Return every other code point."""
    found = []
    begin = 0
    for low, high in ranges:
        if begin < low:
            found.append((begin, low - 1))
        begin = high + 1
    if begin <= _LAST:
        found.append((begin, _LAST))
    return tuple(found)


def written(ranges: Ranges) -> str:
    """Write a class without the surrogates, which no text holds."""
    encodable = []
    for low, high in ranges:
        first, last = _SURROGATES
        encodable += [(low, min(high, first - 1)), (max(low, last + 1), high)]
    parts = [
        literal(low) if low == high else f"{literal(low)}-{literal(high)}"
        for low, high in encodable
        if low <= high
    ]
    if not parts:
        raise ConstraintUnsatisfiable("a class that holds no character")
    return f"[{''.join(parts)}]"


def literal(code: int) -> str:
    """Write one code point."""
    if _SURROGATES[0] <= code <= _SURROGATES[1]:
        raise ConstraintUnsatisfiable("a lone surrogate is no character")
    char = chr(code)
    if char.isascii() and char.isalnum():
        return char
    return f"\\x{{{code:X}}}"
