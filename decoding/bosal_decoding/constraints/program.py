"""A compiled constraint, and one sequence's place in it.

Rule 1: the end of the text is legal exactly where the state accepts; the matcher never sees it.
Rule 2: special tokens and rows of the head beyond the vocabulary are never legal.
Rule 3: a state that has finished is never asked for a mask; a mask without a bit is an answer.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bosal_decoding.constraints.limits import CLOSE_SECONDS

# One row of a mask: token t is bit t % 32 of word t // 32, 1 is legal.
MaskRow = NDArray[np.int32]


class State(Protocol):
    """One sequence's place in a program. Used by one thread at a time."""

    @property
    def is_accepting(self) -> bool:
        """The text so far is complete."""
        ...

    @property
    def is_finished(self) -> bool:
        """The text is complete and nothing may follow."""
        ...

    @property
    def failure(self) -> str:
        """Why the matcher gave up (a limit of its own); "" while it works."""
        ...

    def allowed(self, row: MaskRow) -> None:
        """Write the legal tokens into `row`, which may be longer than the vocabulary."""
        ...

    def advance(self, token: int) -> None:
        """Take a token; the end of the text is counted, not matched."""
        ...

    def validate(self, tokens: Sequence[int]) -> int:
        """Return how many of the tokens could follow, one after the other."""
        ...

    def rollback(self, num_tokens: int) -> None:
        """Take back the last tokens, ends of the text included."""
        ...

    def forced_tokens(self) -> list[int]:
        """Return the tokens that spell what must follow; [] where the model has a choice."""
        ...

    def close_tokens(self, seconds: float = CLOSE_SECONDS) -> list[int] | None:
        """Return tokens that complete the text, few rather than many; None if none were found.

        The search takes so much processor time at most, and little more.
        """
        ...

    def completes(self, tokens: Sequence[int]) -> bool:
        """Return whether these tokens complete the text."""
        ...

    def fork(self) -> "State":
        """Return an independent state at the same place."""
        ...


class Program(Protocol):
    """An immutable compiled constraint over one vocabulary, shared by every request that has it."""

    @property
    def key(self) -> str:
        """Hash of all that decides what it accepts."""
        ...

    @property
    def backend(self) -> str: ...

    @property
    def num_bytes(self) -> int:
        """Memory it takes, roughly."""
        ...

    @property
    def ignored(self) -> tuple[str, ...]:
        """What it leaves unenforced, as the caller allowed."""
        ...

    @property
    def json_schema(self) -> str | None:
        """The schema a finished text is validated against."""
        ...

    @property
    def close(self) -> tuple[int, ...] | None:
        """Tokens that are a whole text, few rather than many; None if none were found."""
        ...

    @property
    def longest_jump(self) -> int:
        """Tokens that one token can make necessary at once, roughly."""
        ...

    def new_state(self) -> State:
        """Return a state before the first token."""
        ...


class ConstraintViolation(Exception):
    """Raised when a token is committed that the constraint does not allow: a fault of ours."""

    def __init__(self, token: int) -> None:
        super().__init__(f"token {token} is not legal here")
