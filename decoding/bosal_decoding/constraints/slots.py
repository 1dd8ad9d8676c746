"""The constraints of a running batch: one state per slot, masks filled while the model runs.

Rule 1: a helper thread fills the masks between `start` and the first call of anything else; every
        other method waits for it, so a state is never touched by two threads at once.
Rule 2: as long as a completion is known that fits the budget, the text ends complete: a token after
        which none fits is taken back, and the completion known before it is forced instead.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum, auto
from time import thread_time

import torch

from bosal_decoding.constraints.limits import MAX_FORCED_TOKENS, MAX_SLOW_FILLS, SLOW_FILL_SECONDS
from bosal_decoding.constraints.program import MaskRow, Program, State
from bosal_decoding.constraints.spelling import bit_of
from bosal_kernels import LegalTokens

# Far from the budget the length of a completion is looked at this often.
_LOOK_EVERY = 16
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
        self._rest = 0

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
        verdict = self._look_ahead(remaining)
        if verdict is Verdict.GO_ON and not self.queue:
            self._fast_forward(remaining)
        return verdict

    def _fast_forward(self, remaining: int) -> None:
        """Queue the tokens that spell what must follow, where the budget is not near."""
        if remaining > 2 * len(self._known or ()) + _FORCED_ROOM:
            self.queue = self.state.forced_tokens()

    def _look_ahead(self, remaining: int) -> Verdict:
        """See to it that the text can still be completed within the budget."""
        self._rest -= 1
        if self._close is None and self._rest <= 0:
            self._close = self._completion()
            slack = remaining - len(self._close or ())
            self._rest = min(slack // (1 + self._growth), _LOOK_EVERY)
        if self._close is None:
            return Verdict.GO_ON
        self._known = self._close
        if len(self._close) > remaining:
            before = self._close_before
            fits = before is not None and len(before) <= remaining + 1
            return Verdict.RETRACT if fits else Verdict.GO_ON
        if 0 < len(self._close) == remaining:
            self.force(self._close)
        return Verdict.GO_ON

    def _completion(self) -> list[int] | None:
        # Within a string or a number the one known before goes on to be one.
        if self._known and self.state.completes(self._known):
            return self._known
        return self.state.close_tokens()


class ConstraintSlots:
    """The constrained slots of one pipeline; used by its thread."""

    def __init__(
        self, num_slots: int, vocabulary_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self._device = torch.device(device)
        self._slots: dict[int, ConstrainedSlot] = {}
        # A matcher may write one word more than the head has.
        shape = (num_slots, vocabulary_size // 32 + 1)
        is_pinned = self._device.type == "cuda"
        self._bits = torch.zeros(shape, dtype=torch.int32, pin_memory=is_pinned)
        self._rows: list[MaskRow] = list(self._bits.numpy())
        # Of the slots whose strings count as outside: two tokens that only free text has both of.
        self._brackets: dict[int, tuple[int, int]] = {}
        self._helper: ThreadPoolExecutor | None = None
        self._filling: Future[None] | None = None

    def __contains__(self, slot: int) -> bool:
        return slot in self._slots

    @property
    def is_used(self) -> bool:
        return bool(self._slots)

    def add(self, slot: int, program: Program, max_tokens: int, ends: frozenset[int]) -> None:
        """Hold a fresh choice to a program; `ends` are the tokens that end a text."""
        self._join()
        self._slots[slot] = ConstrainedSlot(program, max_tokens, ends)

    def watch_text(self, slot: int, brackets: tuple[int, int]) -> None:
        """Tell apart where a slot writes free text: there both of these tokens are legal."""
        self._brackets[slot] = brackets

    def in_text(self, slots: Sequence[int]) -> dict[int, bool]:
        """Say of the watched slots whether their masks, which are filled, allow free text."""
        return {
            slot: all(
                self._rows[slot][token >> 5] & bit_of(token) for token in self._brackets[slot]
            )
            for slot in slots
            if slot in self._brackets
        }

    def free(self, slot: int) -> None:
        self._brackets.pop(slot, None)
        if slot in self._slots:
            self._join()
            del self._slots[slot]

    def start(self, slots: Sequence[int]) -> None:
        """Begin to fill the masks of slots in the helper thread, while the model runs."""
        self._join()
        waiting = [slot for slot in slots if slot in self._slots]
        if not waiting:
            return
        if self._helper is None:
            self._helper = ThreadPoolExecutor(1, thread_name_prefix="bosal-masks")
        self._filling = self._helper.submit(self._fill, waiting)

    def legal(self, slots: Sequence[int]) -> LegalTokens | None:
        """Return the masks of a batch whose rows belong to `slots`; None if none is constrained."""
        self._join()
        places = [place for place, slot in enumerate(slots) if slot in self._slots]
        if not places:
            return None
        here = [slots[place] for place in places]
        self._fill(here)
        return LegalTokens(
            torch.tensor(places, dtype=torch.int64, device=self._device),
            self._bits[here].to(self._device, non_blocking=True),
        )

    def commit(self, slot: int, tokens: Sequence[int]) -> None:
        if slot in self._slots:
            self._join()
            self._slots[slot].commit(tokens)

    def rollback(self, slot: int, num_tokens: int) -> None:
        if slot in self._slots and num_tokens:
            self._join()
            self._slots[slot].rollback(num_tokens)

    def fallback(self, slot: int) -> list[int]:
        """Return the completion that was known before a slot's last token, after RETRACT."""
        return self._slots[slot].fallback

    def force(self, slot: int, tokens: Sequence[int]) -> None:
        """Let tokens come next in a slot, whatever the model thinks; then the text is closed."""
        self._join()
        self._slots[slot].force(tokens)

    def settle(self, slot: int) -> Verdict:
        """Judge a slot after its last token."""
        if slot not in self._slots:
            return Verdict.GO_ON
        self._join()
        return self._slots[slot].settle()

    def was_forced(self, slot: int) -> bool:
        """Whether a slot's last token was not the model's choice."""
        return slot in self._slots and self._slots[slot].was_forced

    def forced(self, slot: int) -> list[int]:
        """Return the tokens that must come next in a slot."""
        return list(self._slots[slot].queue) if slot in self._slots else []

    def blocked(self, slot: int) -> Verdict:
        """Say whether it was the constraint that left a slot without a legal token."""
        if slot not in self._slots:
            return Verdict.GO_ON
        self._join()
        if self._slots[slot].state.failure:
            return Verdict.TOO_SLOW
        return Verdict.GO_ON if self._rows[slot].any() else Verdict.DEAD_END

    def is_legal(self, slot: int, token: int) -> bool:
        """Whether a slot's mask, which is filled, allows a token; True without a constraint."""
        return slot not in self._slots or bool(self._rows[slot][token >> 5] & bit_of(token))

    def is_accepting(self, slot: int) -> bool:
        """Whether the text of a constrained slot is complete."""
        self._join()
        return slot in self._slots and self._slots[slot].state.is_accepting

    def close(self) -> None:
        """End the helper thread."""
        if self._helper is not None:
            self._helper.shutdown()

    def _fill(self, slots: Sequence[int]) -> None:
        for slot in slots:
            held = self._slots[slot]
            if not held.is_filled:
                held.fill(self._rows[slot])

    def _join(self) -> None:
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.result()
