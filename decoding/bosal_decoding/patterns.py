"""Stop patterns: regular expressions with a longest match, for a linear-time engine."""

import re
from collections.abc import Iterable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

from bosal_decoding.constraints.errors import ConstraintUnsupported
from bosal_decoding.constraints.regex import translate

# More than any bound a pattern may have.
UNBOUNDED: Final = 1 << 40


def read_pattern(pattern: str) -> tuple[str, int]:
    """Return a pattern in RE2's syntax and the bytes of its longest match; unbounded is huge.

    Raises:
        ConstraintError: it is no regular expression of the dialect, or it has anchors.
    """
    translated = translate(pattern, search=True)
    # Literals are written as codes, so what is left of these are anchors.
    if "^" in translated or "$" in translated:
        raise ConstraintUnsupported("an anchor (^, $) says nothing of a text that goes on")
    return translated, _longest(parser.parse(pattern, re.ASCII))


def _longest(nodes: Iterable[Any]) -> int:
    return min(sum(_longest_of(kind, value) for kind, value in nodes), UNBOUNDED)


def _longest_of(kind: Any, value: Any) -> int:
    if kind is op.LITERAL:
        return len(chr(value).encode())
    if kind is op.IN:
        return max((_bytes_of(*item) for item in value), default=0)
    if kind is op.BRANCH:
        return max(_longest(branch) for branch in value[1])
    if kind is op.SUBPATTERN:
        return _longest(value[3])
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        inner = _longest(value[2])
        if value[1] is op.MAXREPEAT:
            return UNBOUNDED if inner else 0
        return min(int(value[1]) * inner, UNBOUNDED)
    # Any character, or any but one.
    return 4


def _bytes_of(kind: Any, value: Any) -> int:
    if kind is op.LITERAL:
        return len(chr(value).encode())
    if kind is op.RANGE:
        return len(chr(value[1]).encode())
    if kind is op.CATEGORY and "NOT" not in str(value):
        return 1
    return 4
