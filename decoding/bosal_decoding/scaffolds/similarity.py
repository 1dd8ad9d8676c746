"""Which texts of a collection are most like a question, by the words they share.

BM25 (Robertson and Zaragoza 2009, doi:10.1561/1500000019) with k1 = 1.2 and b = 0.75, its inverse
document frequency as in Lucene, never negative:

    score(q, d) = sum over words w of q: idf(w) f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|))
    idf(w) = ln(1 + (N - n + 0.5) / (n + 0.5))

N is the number of texts, n the number of those with w, f how often d has it,
|d| its length in words.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Final

_K1: Final = 1.2
_B: Final = 0.75
_WORD: Final = re.compile(r"\w+")


class Similarity:
    """A collection of texts, and their likeness to others. Deterministic and without state."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(_words(text)) for text in texts]
        self._lengths = [count.total() for count in self._counts]
        self._mean = sum(self._lengths) / max(len(texts), 1) or 1.0
        self._holders = Counter(word for count in self._counts for word in count)

    def scores(self, question: str) -> list[float]:
        """How like each text is to a question; 0 is not at all."""
        words = dict.fromkeys(_words(question))
        weights = {
            word: log(
                1 + (len(self._counts) - self._holders[word] + 0.5) / (self._holders[word] + 0.5)
            )
            for word in words
            if word in self._holders
        }
        found = []
        for count, length in zip(self._counts, self._lengths, strict=True):
            damping = _K1 * (1 - _B + _B * length / self._mean)
            found.append(
                sum(
                    weight * count[word] * (_K1 + 1) / (count[word] + damping)
                    for word, weight in weights.items()
                    if word in count
                )
            )
        return found

    def best(self, question: str, count: int) -> list[int]:
        """The places of the texts most like a question, best first; earlier ones first on ties."""
        scores = self.scores(question)
        return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
