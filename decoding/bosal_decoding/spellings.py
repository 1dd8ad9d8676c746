"""All tokens of a vocabulary as one text, so that questions about every token are asked at once.

Looking at tokens one by one would hold Python's lock a quarter of a second for a large vocabulary,
and with it everybody who streams.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import regex
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

# Tokens that are read at a time: Python's lock is held for that long.
_PIECE: Final = 8192
# What bytes that are no character are decoded to.
_FIRST_ESCAPE: Final = 0xDC80
_LAST_ESCAPE: Final = 0xDCFF


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Characters:
    """The characters of all tokens."""

    # Each there is, once.
    alphabet: str
    # Of every character of every token, whose it is and its place in the alphabet.
    owner: NDArray[np.int32]
    place: NDArray[np.int32]
    # The tokens [V] that hold half a character: it could become anything.
    is_broken: Bools


class Spellings:
    """The bytes of V tokens behind each other."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        pieces = [b"".join(piece) for piece in self._pieces()]
        self._octets = np.frombuffer(b"".join(pieces), np.uint8)
        self._lengths = np.concatenate([_lengths(piece) for piece in self._pieces()])
        self._ends = self._lengths.cumsum()

    def holding(self, part: bytes) -> NDArray[np.int64]:
        """Return the tokens whose bytes hold these, which are not none, in order."""
        count = max(len(self._octets) - len(part) + 1, 0)
        is_here = self._octets[:count] == part[0]
        for place in range(1, len(part)):
            if not is_here.any():
                break
            is_here &= self._octets[place : count + place] == part[place]
        begins = np.flatnonzero(is_here)
        tokens = np.searchsorted(self._ends, begins, side="right")
        # Not over the end of a token into the next.
        return np.unique(tokens[begins + len(part) <= self._ends[tokens]])

    def without(self, characters: "regex.Pattern[str]") -> NDArray[np.int64]:
        """Return the tokens of whole characters none of which a pattern finds, in order.

        A token without text is none.
        """
        known = self._characters
        # Lets go of Python's lock while it looks.
        found = "".join(characters.findall(known.alphabet, concurrent=True))
        is_found = np.isin(_codes(known.alphabet), _codes(found))
        is_left = (self._lengths > 0) & ~known.is_broken
        is_left[known.owner[is_found[known.place]]] = False
        return np.flatnonzero(is_left)

    @cached_property
    def _characters(self) -> _Characters:
        codes, owners = [], []
        for number, piece in enumerate(self._pieces()):
            # A character between them keeps halves of characters apart.
            code = _codes(b"\n".join(piece).decode(errors="surrogateescape"))
            width = 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000)
            width[_is_escape(code)] = 1
            begins = width.cumsum() - width
            ends = (_lengths(piece) + 1).cumsum()
            owner = np.searchsorted(ends, begins, side="right")
            is_between = begins == ends[owner] - 1
            codes.append(code[~is_between])
            owners.append(owner[~is_between] + number * _PIECE)
        code, owner = np.concatenate(codes), np.concatenate(owners)
        is_broken = np.zeros(len(self._token_bytes), np.bool_)
        is_broken[owner[_is_escape(code)]] = True
        is_known = np.zeros(sys.maxunicode + 1, np.bool_)
        is_known[code] = True
        is_known[_FIRST_ESCAPE : _LAST_ESCAPE + 1] = False
        rank = is_known.cumsum(dtype=np.int32) - 1
        is_whole = ~_is_escape(code)
        return _Characters(
            alphabet=np.flatnonzero(is_known).astype("<u4").tobytes().decode("utf-32-le"),
            owner=owner[is_whole].astype(np.int32),
            place=rank[code[is_whole]],
            is_broken=is_broken,
        )

    def _pieces(self) -> Iterator[Sequence[bytes]]:
        for first in range(0, max(len(self._token_bytes), 1), _PIECE):
            yield self._token_bytes[first : first + _PIECE]


def _lengths(token_bytes: Sequence[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, token_bytes), np.int64, len(token_bytes))


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _is_escape(code: NDArray[np.uint32]) -> Bools:
    return (code >= _FIRST_ESCAPE) & (code <= _LAST_ESCAPE)
