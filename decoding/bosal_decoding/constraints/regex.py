"""One dialect of regular expressions, and its translation for every backend.

A pattern is read by Python's own parser and means what `re.fullmatch` means with `re.ASCII`:
`\\d`, `\\w`, `\\s` and `(?i)` are ASCII, `.` is anything but a line feed. What is no regular
language (look-around, backreferences, `\\b`, atomic groups) is refused by name. The translation
holds literals, classes of code points, groups, `|` and greedy repetition alone, which mean the
same everywhere.
"""

import re
from collections.abc import Iterable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

from bosal_decoding.constraints.code_points import (
    LINE_FEED,
    cased,
    complement,
    folded,
    literal,
    members,
    written,
)
from bosal_decoding.constraints.errors import (
    ConstraintSyntax,
    ConstraintTooLarge,
    ConstraintUnsupported,
)
from bosal_decoding.constraints.limits import MAX_REPETITION, MAX_TOTAL_REPETITION

_EDGES: Final = (op.AT_BEGINNING, op.AT_BEGINNING_STRING, op.AT_END, op.AT_END_STRING)
_NAMES: Final = {
    op.ASSERT: "look-around",
    op.ASSERT_NOT: "look-around",
    op.GROUPREF: "a backreference",
    op.GROUPREF_EXISTS: "a conditional group",
    op.ATOMIC_GROUP: "an atomic group",
    op.POSSESSIVE_REPEAT: "a possessive repetition",
}


def translate(pattern: str, *, max_repetition: int = MAX_REPETITION, search: bool = False) -> str:
    """Write a pattern in the syntax that all backends read alike.

    With `search` anchors at the edges are kept, for a pattern that may match anywhere.
    """
    return _written(pattern, _Writer(max_repetition, keep_anchors=search))


def unrolled_size(pattern: str) -> int:
    """How many characters a pattern has once every bounded repetition is written out.

    Raises:
        InvalidConstraint: the pattern is not one of this dialect.
    """
    writer = _Writer(MAX_REPETITION, keep_anchors=True)
    _written(pattern, writer)
    return writer.unrolled_size


def parse(pattern: str) -> tuple[Any, int]:
    """Return the tree of a pattern and its flags, as Python's own parser reads them."""
    tree = parser.parse(_without_set_notation(pattern), re.ASCII)
    if tree.state.flags & re.LOCALE:
        raise ConstraintUnsupported("the flag L is not supported")
    return tree, tree.state.flags


def _written(pattern: str, writer: "_Writer") -> str:
    try:
        tree, flags = parse(pattern)
        return writer.sequence(tree, flags, at_start=True, at_end=True, scale=1)
    except re.error as error:
        raise ConstraintSyntax(f"not a regular expression: {error}") from None
    except OverflowError:
        raise ConstraintTooLarge(f"a repetition of more than {MAX_REPETITION}") from None
    except RecursionError:
        raise ConstraintTooLarge("groups are nested too deeply") from None


def with_literals(translated: str) -> str:
    """Write a translated pattern for readers that know no code points in braces."""
    return re.sub(r"\\x\{([0-9A-F]+)\}", _spelled_out, translated)


def _spelled_out(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    char = chr(code)
    if char == " " or not char.isascii():
        return char
    if char.isprintable():
        return f"\\{char}"
    return f"\\u{code:04x}"


def escape(text: str) -> str:
    """Write a literal text in the common syntax."""
    return "".join(map(literal, map(ord, text)))


def _without_set_notation(pattern: str) -> str:
    """Escape within classes what a later Python might read as set operations."""
    out: list[str] = []
    inside = False
    is_first = False
    index = 0
    while index < len(pattern):
        char = pattern[index]
        if char == "\\":
            out.append(pattern[index : index + 2])
            index += 2
            is_first = False
            continue
        if not inside:
            inside = char == "["
            is_first = inside
            out.append(char)
        elif char == "]" and not is_first:
            inside = False
            out.append(char)
        elif char == "^" and is_first and out[-1] == "[":
            out.append(char)
        else:
            is_second_dash = char == "-" and out[-1] == "-" and not is_first
            out.append(f"\\{char}" if char in "[&~|" or is_second_dash else char)
            is_first = False
        index += 1
    return "".join(out)


class _Writer:
    def __init__(self, max_repetition: int, *, keep_anchors: bool) -> None:
        self._max_repetition = max_repetition
        self._keep_anchors = keep_anchors
        # Characters of what was written, each as often as the repetitions around it want it.
        self.unrolled_size = 0

    def sequence(
        self, nodes: Iterable[Any], flags: int, *, at_start: bool, at_end: bool, scale: int
    ) -> str:
        items = list(nodes)
        parts = []
        self.unrolled_size += scale * len(items)
        for place, (kind, value) in enumerate(items):
            # An anchor consumes nothing, so what follows one is still at the edge.
            starts = at_start and all(before is op.AT for before, _ in items[:place])
            ends = at_end and all(after is op.AT for after, _ in items[place + 1 :])
            parts.append(self._node(kind, value, flags, starts, ends, scale))
        return "".join(parts)

    def _node(
        self, kind: Any, value: Any, flags: int, at_start: bool, at_end: bool, scale: int
    ) -> str:
        if kind is op.LITERAL:
            if flags & re.IGNORECASE and chr(value).isascii() and chr(value).isalpha():
                return written(folded(((value, value),)))
            return literal(value)
        if kind is op.NOT_LITERAL:
            return written(complement(cased(((value, value),), flags)))
        if kind is op.ANY:
            return written(complement(() if flags & re.DOTALL else LINE_FEED))
        if kind is op.IN:
            return written(members(value, flags))
        if kind is op.BRANCH:
            branches = [
                self.sequence(branch, flags, at_start=at_start, at_end=at_end, scale=scale)
                for branch in value[1]
            ]
            return f"(?:{'|'.join(branches)})"
        if kind is op.SUBPATTERN:
            _, added, removed, inner = value
            flags = (flags | added) & ~removed
            body = self.sequence(inner, flags, at_start=at_start, at_end=at_end, scale=scale)
            return f"(?:{body})"
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            low, high, inner = value
            return self._repeat(low, high, inner, flags, scale)
        if kind is op.AT:
            return self._anchor(value, flags, at_start, at_end)
        name = _NAMES.get(kind, str(kind).lower())
        raise ConstraintUnsupported(f"{name} is no regular language and is not supported")

    def _repeat(self, low: int, high: Any, inner: Any, flags: int, scale: int) -> str:
        is_bounded = high is not op.MAXREPEAT
        bound = int(high) if is_bounded else low
        if bound > self._max_repetition:
            raise ConstraintTooLarge(
                f"a repetition of {bound}; at most {self._max_repetition} are allowed"
            )
        scale *= max(bound, 1)
        if scale > MAX_TOTAL_REPETITION:
            raise ConstraintTooLarge(
                f"nested repetitions of {scale} together; at most {MAX_TOTAL_REPETITION}"
            )
        body = self.sequence(inner, flags, at_start=False, at_end=False, scale=scale)
        count = {(0, 1): "?"}.get((low, high)) if is_bounded else {0: "*", 1: "+"}.get(low)
        if count is None:
            count = f"{{{low},{high}}}" if is_bounded else f"{{{low},}}"
        return f"(?:{body}){count}"

    def _anchor(self, where: Any, flags: int, at_start: bool, at_end: bool) -> str:
        if where not in _EDGES:
            raise ConstraintUnsupported("a word boundary (\\b, \\B) is not supported")
        if flags & re.MULTILINE:
            raise ConstraintUnsupported("anchors with the flag m are not supported")
        is_start = where in _EDGES[:2]
        if not (at_start if is_start else at_end):
            raise ConstraintUnsupported("an anchor (^, $) in the middle is not supported")
        if not self._keep_anchors:
            return ""
        return "^" if is_start else "$"
