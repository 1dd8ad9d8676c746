"""Finds a short way to complete a text: greedily, byte by byte, every byte checked.

Not always the shortest, but what is found is legal. Three searches, because each has texts it never
leaves: one prefers what closes brackets and strings, one prefers a byte that was not legal before,
which is a way out of a repetition, and one prefers the byte it has used least.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from time import thread_time
from typing import Final, Protocol

from bosal_decoding.constraints.limits import MAX_CLOSE_BYTES

# What ends something stands before what begins something.
_CLOSING: Final = b'}])",:0ntf[{-.1a 9A@+e'
_IN_TEXT: Final = b'"a0.,:@}])\n[{tfn-1 9A+e'
_RANKS: Final = {byte: place for place, byte in enumerate(_CLOSING)}
# A search that writes one byte so often in a row is in a text it does not leave.
_MAX_RUN: Final = 12


class Walker(Protocol):
    """A place in a language, moved byte by byte."""

    @property
    def is_accepting(self) -> bool: ...

    def forced(self) -> bytes:
        """The bytes that must follow here, if that is known."""
        ...

    def allows(self, byte: int) -> bool: ...

    def legal(self) -> list[int]:
        """Every byte that may follow."""
        ...

    def take(self, data: bytes) -> bool:
        """Move on; False, and nothing moved, where the bytes are not legal."""
        ...

    def fork(self) -> "Walker": ...


def completion(walker: Walker, seconds: float, *, max_bytes: int = MAX_CLOSE_BYTES) -> bytes | None:
    """Return the bytes of one completion from here; None if none was found in processor time."""
    deadline = thread_time() + seconds
    for choose in (_closing_byte, _FreshByte(), _novel_byte):
        found = _walk(walker.fork(), choose, max_bytes, deadline)
        if found is not None:
            return found
    return None


def shortest(options: Sequence[bytes], written: bytes) -> bytes | None:
    """Return what completes `written` to the nearest of several texts."""
    rests = [option[len(written) :] for option in options if option.startswith(written)]
    return min(rests, key=len, default=None)


def endings(text: bytes, written: bytes, max_bytes: int) -> Iterator[bytes]:
    """Yield what may end a text as `text` ends: its rest, where it was begun, then its last bytes.

    What stands behind a repetition ends a text wherever the repetition stands.
    """
    if text.startswith(written):
        yield text[len(written) :]
    for size in range(1, min(len(text), max_bytes + 1)):
        yield text[-size:]


def _walk(walker: Walker, choose: "_Choice", max_bytes: int, deadline: float) -> bytes | None:
    written = bytearray()
    used: Counter[int] = Counter()
    while len(written) < max_bytes and thread_time() < deadline:
        if walker.is_accepting:
            return bytes(written)
        forced = walker.forced()
        if forced and walker.take(forced):
            written += forced
            continue
        for byte in choose(walker, used):
            if walker.take(bytes([byte])):
                break
        else:
            return None
        if written[-_MAX_RUN:] == bytes([byte]) * _MAX_RUN and choose is _closing_byte:
            return None
        used[byte] += 1
        written.append(byte)
    return None


class _Choice(Protocol):
    def __call__(self, walker: Walker, used: Counter[int], /) -> Iterator[int]: ...


def _closing_byte(walker: Walker, used: Counter[int]) -> Iterator[int]:
    # Where both brackets are legal, neither closes anything: that is free text.
    is_text = walker.allows(_CLOSING[0]) and walker.allows(_CLOSING[1])
    yield from _IN_TEXT if is_text else _CLOSING
    yield from walker.legal()


class _FreshByte:
    """Prefers bytes that were not legal one byte earlier; used for one search."""

    def __init__(self) -> None:
        self._before: frozenset[int] = frozenset()

    def __call__(self, walker: Walker, used: Counter[int], /) -> Iterator[int]:
        legal = walker.legal()
        fresh = [byte for byte in legal if byte not in self._before]
        self._before = frozenset(legal)
        yield from sorted(fresh, key=_rank) if len(fresh) < len(legal) else ()
        yield from _novel_byte(walker, used)


def _novel_byte(walker: Walker, used: Counter[int]) -> Iterator[int]:
    yield from sorted(walker.legal(), key=lambda byte: (used[byte], *_rank(byte)))


def _rank(byte: int) -> tuple[int, int]:
    """What closes first, then by value."""
    return _RANKS.get(byte, len(_RANKS)), byte
