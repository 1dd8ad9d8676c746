"""Where the end of a sequence occurs in it before, and how far back each occurrence reaches.

The Z-function of the reversed sequence, exact. Short occurrences are compared side by side; long
ones are compared once, and what lies within one is taken from what it repeats.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.signedinteger[Any]]

# Occurrences up to so many tokens are compared token by token, all at once.
_SHORT: Final = 16
# Long occurrences that are compared each for itself; of more, Python looks at every token.
_MAX_COMPARED: Final = 400
_FIRST_PIECE: Final = 64


def suffix_runs(history: Ints) -> Ints:
    """Return for each place of a history [L] how much before it equals its end, [L].

    At place i: the longest common suffix of history[:i] and history. Values are int32.
    """
    runs = np.zeros(len(history), np.int32)
    if len(history):
        ends = np.flatnonzero(history[:-1] == history[-1]) + 1
        runs[ends] = common_suffixes(history, ends)
    return runs


def common_suffixes(history: Ints, ends: Ints) -> Ints:
    """Return the longest common suffix of history[:end] and history for ends [m], in order, [m].

    They are all the places behind the last token's earlier occurrences.
    """
    length = len(history)
    said = np.full(length + _SHORT, -1, history.dtype)
    said[:length] = history[::-1]
    places = length - ends[::-1].astype(np.int64)
    # At each place of what was said backwards; once looked at, what lies before is final.
    run = np.zeros(length + 1, np.int32)
    run[0] = length
    same = places
    for depth in range(_SHORT):
        same = same[said[same + depth] == said[depth]]
        run[same] = depth + 1
        if not len(same):
            break
    if len(same) and not _compare(said[:length], same, run):
        return _by_token(history.tolist())[ends]
    return run[places][::-1]


def _compare(said: Ints, places: Ints, run: Ints) -> bool:
    """Find the runs at places, in order, where they are at least what `run` says already.

    False if there are too many to be compared each for itself.
    """
    length = len(said)
    at = 0
    for _ in range(_MAX_COMPARED):
        if at == len(places):
            return True
        begin = int(places[at])
        right = begin + _same(said, begin, int(run[begin]))
        run[begin] = right - begin
        at += 1
        # Up to `right` what was said repeats itself every `begin` tokens.
        within = int(np.searchsorted(places, right))
        while at < within:
            first = int(places[at])
            shift = (first - 1) // begin * begin
            part = places[at : int(np.searchsorted(places, min(first + shift, right)))]
            known, rest = run[part - shift], right - part
            run[part] = np.minimum(known, rest)
            goes_on = np.zeros(len(part), np.bool_)
            if right < length:
                goes_on = (known == rest) & (said[rest] == said[right])
            if goes_on.any():
                at += int(goes_on.argmax())
                break
            at += len(part)
    return at == len(places)


def _same(said: Ints, begin: int, known: int) -> int:
    """How much from a place on equals the beginning, of which so much is known."""
    piece = _FIRST_PIECE
    while begin + known < len(said):
        ours = said[begin + known : begin + known + piece]
        differs = ours != said[known : known + len(ours)]
        if differs.any():
            return known + int(differs.argmax())
        known += len(ours)
        piece *= 2
    return known


def _by_token(history: list[int]) -> Ints:
    """Every place's run, by the Z-function of the reversed history."""
    length = len(history)
    backwards = history[::-1]
    run = [0] * (length + 1)
    run[length] = length
    left = right = 0
    for at in range(1, length):
        same = min(right - at, run[length - (at - left)]) if at < right else 0
        while at + same < length and backwards[same] == backwards[at + same]:
            same += 1
        if at + same > right:
            left, right = at, at + same
        run[length - at] = same
    return np.array(run, np.int32)
