"""The shortest text of a regular expression, read from its tree: no search, however it repeats."""

import re
from collections.abc import Iterable
from re import _constants as op  # type: ignore[attr-defined]
from typing import Any, Final

from bosal_decoding.constraints.code_points import (
    LINE_FEED,
    Ranges,
    cased,
    complement,
    members,
)
from bosal_decoding.constraints.limits import MAX_CLOSE_BYTES
from bosal_decoding.constraints.regex import parse

# Of a class, what reads best; then what can be seen.
_LIKED: Final = "a0A1 .-_"
_VISIBLE: Final = range(0x21, 0x7F)


class _TooLong(Exception):
    """Raised when a text has grown too long to be of use."""


def shortest_text(pattern: str) -> str | None:
    """Return a shortest text, in bytes, of a pattern that `translate` takes; None if it is long."""
    tree, flags = parse(pattern)
    try:
        return _least(tree, flags)
    except _TooLong:
        return None


def _least(nodes: Iterable[Any], flags: int) -> str:
    text = "".join(_least_of(kind, value, flags) for kind, value in nodes)
    if len(text) > MAX_CLOSE_BYTES:
        raise _TooLong
    return text


def _least_of(kind: Any, value: Any, flags: int) -> str:
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.NOT_LITERAL:
        return _member(complement(cased(((value, value),), flags)))
    if kind is op.ANY:
        return _member(complement(() if flags & re.DOTALL else LINE_FEED))
    if kind is op.IN:
        return _member(members(value, flags))
    if kind is op.BRANCH:
        return _least_branch(value[1], flags)
    if kind is op.SUBPATTERN:
        _, added, removed, inner = value
        return _least(inner, (flags | added) & ~removed)
    if kind is op.AT:
        return ""
    low, _, inner = value  # a repetition
    if low == 0:
        return ""
    body = _least(inner, flags)
    if int(low) * len(body) > MAX_CLOSE_BYTES:
        raise _TooLong
    return body * int(low)


def _least_branch(branches: Iterable[Any], flags: int) -> str:
    texts = []
    for branch in branches:
        try:
            texts.append(_least(branch, flags))
        except _TooLong:
            continue
    if not texts:
        raise _TooLong
    return min(texts, key=lambda text: len(text.encode()))


def _member(ranges: Ranges) -> str:
    for code in (*map(ord, _LIKED), *_VISIBLE):
        if any(low <= code <= high for low, high in ranges):
            return chr(code)
    # The lowest has the fewest bytes; surrogates are no characters.
    return chr(next(code for low, high in ranges for code in (low, high) if not _is_lone(code)))


def _is_lone(code: int) -> bool:
    return 0xD800 <= code <= 0xDFFF
