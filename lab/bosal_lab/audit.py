"""The near-duplicate audit: how much of the suite stands in the corpus or the tuning set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bosal_lab.item import Item

_WORD = re.compile(r"\w+")
LIMIT = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An item and the text that comes nearest to it."""

    item: str
    overlap: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit found; a clean one has no exact copy and no match above the limit."""

    texts: int
    limit: float
    exact: tuple[str, ...] = ()
    near: tuple[Match, ...] = ()
    nearest: Match | None = None

    @property
    def is_clean(self) -> bool:
        """Return whether nothing was found."""
        return not self.exact and not self.near


@dataclass(slots=True)
class _Best:
    overlap: float = 0.0
    text: str = ""
    exact: bool = False


def words(text: str) -> list[str]:
    """Return the lower-case words of a text."""
    return _WORD.findall(text.lower())


def _grams(found: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(found[at : at + size]) for at in range(len(found) - size + 1)}


def _told(item: Item) -> str:
    """Return everything the user says in an item."""
    return " ".join(message.text for message in item.messages if message.role == "user")


def find_copies(
    items: Sequence[Item], texts: Iterable[str], *, gram: int = 4, limit: float = LIMIT
) -> Audit:
    """Look for each item's instruction in texts: whole, or by the share of its word n-grams.

    `texts` are the lines of the corpus or the prompts of the tuning set; one text counts alone.
    """
    told = {item.id: words(_told(item)) for item in items}
    grams = {key: _grams(found, gram) or {tuple(found)} for key, found in told.items()}
    index: dict[tuple[str, ...], list[str]] = {}
    for key, found in grams.items():
        for one in found:
            index.setdefault(one, []).append(key)
    best = {item.id: _Best() for item in items}
    whole = {tuple(found): key for key, found in told.items()}
    count = 0
    for text in texts:
        count += 1
        read = words(text)
        if (copied := whole.get(tuple(read))) is not None:
            best[copied].exact = True
        hits: dict[str, int] = {}
        for one in _grams(read, gram):
            for key in index.get(one, ()):
                hits[key] = hits.get(key, 0) + 1
        for key, number in hits.items():
            overlap = number / len(grams[key])
            if overlap > best[key].overlap:
                best[key].overlap, best[key].text = overlap, text
    matches = [
        Match(item=key, overlap=one.overlap, text=one.text) for key, one in best.items() if one.text
    ]
    matches.sort(key=lambda match: (-match.overlap, match.item))
    return Audit(
        texts=count,
        limit=limit,
        exact=tuple(key for key, one in best.items() if one.exact),
        near=tuple(match for match in matches if match.overlap > limit),
        nearest=matches[0] if matches else None,
    )
