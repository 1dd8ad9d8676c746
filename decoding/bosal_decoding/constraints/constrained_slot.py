"""One constrained choice of a running batch: its state, and how it ends within its budget.

As long as a completion is known that fits the budget, the text ends complete: a token after which
none fits is taken back, and the completion known before it is forced instead.
"""

from collections.abc import Sequence
from enum import Enum, auto
from time import thread_time

from bosal_decoding.constraints.limits import (
    CLOSE_SECONDS,
    MAX_FORCED_TOKENS,
    MAX_SLOW_FILLS,
    SLOW_FILL_SECONDS,
)
from bosal_decoding.constraints.program import MaskRow, Program, State
from bosal_decoding.constraints.spelling import bit_of

# Far from the budget the length of a completion is looked at this often.
_LOOK_EVERY = 16
# Each search that ran out of time halves the time of the next.
_HOPELESS_FROM_THE_START = 3
_MAX_HALVINGS = 5
# Forced tokens may be more than a completion has, which takes the longest that fit.
_FORCED_ROOM = 2 * MAX_FORCED_TOKENS
# Brackets and quotes that one token may open.
_LEAST_GROWTH = 8


class Verdict(Enum):
    """What a constraint says of a choice after a token, or of a step that drew none."""

    GO_ON = auto()
    COMPLETE = auto()  # nothing may follow
    CLOSED = auto()  # complete because the budget asked for it
    RETRACT = auto()  # the last token leaves no room to complete the text: take it back
    DEAD_END = auto()  # no token is legal
    TOO_SLOW = auto()  # the matcher gave up, or took too long too often


class ConstrainedSlot:
    """One choice's state, and how it will end within its budget."""

    def __init__(self, program: Program, max_tokens: int, ends: frozenset[int]) -> None:
        self._ends = ends
        self.state: State = program.new_state()
        self.is_filled = False
        self.num_slow_fills = 0
        self.is_closing = False
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._is_end = False
        self.was_forced = False
        # Tokens that must come next, whatever the model thinks.
        self.queue: list[int] = []
        # A completion from the state as it is; None where none was found or looked for.
        self._close: list[int] | None = list(program.close) if program.close is not None else None
        self._close_before: list[int] | None = None
        self._known = self._close
        # What one token may add to the completion, and tokens until the next look at it.
        self._growth = max(program.longest_jump, _LEAST_GROWTH)
        # Searches that ran out of time; one did when the program was compiled, if it has no close.
        is_hopeless = program.close is None
        self._num_hopeless = _HOPELESS_FROM_THE_START if is_hopeless else 0
        self._rest = min(max_tokens // 2, _LOOK_EVERY) if is_hopeless else self._steps_of_room()

    def fill(self, row: MaskRow) -> None:
        """Write the legal tokens; measured in processor time, which a busy machine does not add."""
        started = thread_time()
        if self.queue:
            row[:] = 0
            row[self.queue[0] >> 5] = bit_of(self.queue[0])
        else:
            self.state.allowed(row)
        self.num_slow_fills += thread_time() - started > SLOW_FILL_SECONDS
        self.is_filled = True

    def look_ahead(self) -> None:
        """Look already now for the completion that would be looked for after the next token.

        Near the budget that is too early, and `settle` looks after every token.
        """
        if self._close is None and self._rest <= 1 and not self._is_over:
            self._search(self._max_tokens - self._num_tokens)

    def commit(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.state.advance(token)
            self._num_tokens += 1
            self._is_end = token in self._ends
            self.was_forced = bool(self.queue)
            if self.queue:
                del self.queue[0]
            # The completion known before goes on to be one while it is followed.
            follows = bool(self._close) and self._close[0] == token  # type: ignore[index]
            self._close_before = self._close
            self._close = self._close[1:] if follows and self._close is not None else None
        self.is_filled = False

    def rollback(self, num_tokens: int) -> None:
        self.state.rollback(num_tokens)
        self._num_tokens -= num_tokens
        self._is_end = False
        self.queue = []
        self.is_closing = False
        self._close = self._close_before = None
        self._rest = 0
        self.is_filled = False

    @property
    def fallback(self) -> list[int]:
        """The completion that was known before the last token."""
        assert self._close_before is not None
        return self._close_before

    def force(self, tokens: Sequence[int]) -> None:
        """Let these tokens come next, whatever the model thinks."""
        self.queue = list(tokens)
        self.is_closing = True
        self._close = list(tokens)

    def settle(self) -> Verdict:
        """Judge the place after the last token."""
        if self.state.failure or self.num_slow_fills >= MAX_SLOW_FILLS:
            return Verdict.TOO_SLOW
        if self._is_end:
            return Verdict.GO_ON
        if self.is_closing and not self.queue:
            return Verdict.CLOSED
        if self.state.is_finished:
            return Verdict.COMPLETE
        remaining = self._max_tokens - self._num_tokens
        if self.queue:
            return Verdict.GO_ON
        if remaining == 0 and self.state.is_accepting:
            return Verdict.CLOSED
        verdict = self._judge_room(remaining)
        if verdict is Verdict.GO_ON and not self.queue:
            self._fast_forward(remaining)
        return verdict

    def _fast_forward(self, remaining: int) -> None:
        """Queue the tokens that spell what must follow, where the budget is not near."""
        if remaining > 2 * len(self._known or ()) + _FORCED_ROOM:
            self.queue = self.state.forced_tokens()

    @property
    def _is_over(self) -> bool:
        """Nothing is to be looked for: the text ends, or what comes next is known."""
        return bool(self.queue or self.is_closing or self._is_end or self.state.failure)

    def _judge_room(self, remaining: int) -> Verdict:
        """See to it that the text can still be completed within the budget."""
        self._rest -= 1
        if self._close is None and self._rest <= 0 and remaining > 0:
            self._search(remaining)
        # A text that is not complete wants a token at least.
        needed = 1 if self._close is None else len(self._close)
        if needed > remaining:
            before = self._close_before
            fits = before is not None and len(before) <= remaining + 1
            return Verdict.RETRACT if fits else Verdict.GO_ON
        if self._close is None:
            return Verdict.GO_ON
        self._known = self._close
        if 0 < len(self._close) == remaining:
            self.force(self._close)
        return Verdict.GO_ON

    def _search(self, remaining: int) -> None:
        """Look for a completion, and decide when to look again."""
        limit = CLOSE_SECONDS / (1 << min(self._num_hopeless, _MAX_HALVINGS))
        started = thread_time()
        self._close = self._completion(limit)
        seconds = thread_time() - started
        # One that outlasted its time by much is as bad as a slow mask.
        self.num_slow_fills += seconds > limit + CLOSE_SECONDS
        if self._close is None and seconds > limit:
            self._num_hopeless += 1
            self._rest = min(remaining // 2, _LOOK_EVERY)
        else:
            self._rest = self._steps_of_room()
        self._known = self._known if self._close is None else self._close

    def _steps_of_room(self) -> int:
        """Tokens that may come before a completion could outgrow the budget."""
        slack = self._max_tokens - self._num_tokens - len(self._close or ())
        return min(slack // (1 + self._growth), _LOOK_EVERY)

    def _completion(self, seconds: float) -> list[int] | None:
        # Within a string or a number the one known before goes on to be one.
        if self._known and self.state.completes(self._known):
            return self._known
        return self.state.close_tokens(seconds)
