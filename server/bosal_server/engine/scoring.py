"""Scoring a given continuation: its tokens are fed to the model in place of drawn ones."""

from collections.abc import Sequence
from typing import Final

# Tokens fed in one step, each of which gives a row of logits.
MAX_ROWS: Final = 64


class Scoring:
    """How far a continuation has been scored.

    The row of a token's log-probability is the one that its predecessor gives. So the first comes
    with the prompt; then tokens are fed many at a time, each for the row of its successor.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        """Score at least one token."""
        self._tokens = tuple(tokens)
        self.num_scored = 0
        # Of the first token that the constraint forbids.
        self.forbidden_position: int | None = None
        # Of the tokens that a rule dictates, whatever was given.
        self.forced: list[int] = []

    def take_forced(self) -> tuple[int, ...]:
        """The positions found to be dictated since the last call."""
        forced, self.forced = tuple(self.forced), []
        return forced

    @property
    def is_done(self) -> bool:
        return self.num_scored == len(self._tokens)

    def scored(self, num_rows: int) -> tuple[int, ...]:
        """The tokens that the next rows are about."""
        return self._tokens[self.num_scored : self.num_scored + num_rows]

    def advance(self, num_rows: int) -> tuple[int, ...]:
        """Note that so many tokens were scored; return the tokens to feed for the next rows."""
        self.num_scored += num_rows
        if self.is_done:
            return ()
        count = min(MAX_ROWS, len(self._tokens) - self.num_scored)
        return self._tokens[self.num_scored - 1 : self.num_scored - 1 + count]
