"""The constraints of a running batch: one state per slot, masks filled while the model runs.

A helper thread fills the masks between `start` and the first call of anything else; every
other method waits for it, so a state is never touched by two threads at once.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter

import torch

from bosal_decoding.constraints.constrained_slot import ConstrainedSlot, Verdict
from bosal_decoding.constraints.limits import CLOSE_SECONDS
from bosal_decoding.constraints.program import MaskRow, Program
from bosal_decoding.constraints.spelling import bit_of
from bosal_kernels import LegalTokens


class ConstraintSlots:
    """The constrained slots of one pipeline; used by its thread."""

    def __init__(self, num_slots: int, vocabulary_size: int) -> None:
        self._slots: dict[int, ConstrainedSlot] = {}
        # A matcher may write one word more than the head has.
        shape = (num_slots, vocabulary_size // 32 + 1)
        self._bits = torch.zeros(shape, dtype=torch.int32)
        self._rows: list[MaskRow] = list(self._bits.numpy())
        # Of the slots whose strings count as outside: two tokens that only free text has both of.
        self._brackets: dict[int, tuple[int, int]] = {}
        self._helper: ThreadPoolExecutor | None = None
        self._filling: Future[None] | None = None
        self._fill_seconds = 0.0

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
        """Say of the watched slots whether their masks allow free text."""
        watched = [slot for slot in slots if slot in self._brackets]
        if watched:
            self._join()
            self._fill(watched)
        return {
            slot: all(
                self._rows[slot][token >> 5] & bit_of(token) for token in self._brackets[slot]
            )
            for slot in watched
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
        self._filling = self._helper.submit(self._prepare, waiting)

    def legal(self, slots: Sequence[int]) -> LegalTokens | None:
        """Return the masks of a batch whose rows belong to `slots`, on the host.

        None if none is constrained.
        """
        self._join()
        places = [place for place, slot in enumerate(slots) if slot in self._slots]
        if not places:
            return None
        here = [slots[place] for place in places]
        self._fill(here)
        return LegalTokens(torch.tensor(places), self._bits[here])

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

    def take_fill_seconds(self) -> float:
        """Return what filling masks took since the last call; what still runs counts later."""
        if self._filling is not None:
            return 0.0
        seconds, self._fill_seconds = self._fill_seconds, 0.0
        return seconds

    def close(self) -> None:
        """End the helper thread."""
        if self._helper is not None:
            self._helper.shutdown()

    def _prepare(self, slots: Sequence[int]) -> None:
        """Fill the masks, and search for what the next tokens would be searched for after."""
        self._fill(slots)
        until = perf_counter() + CLOSE_SECONDS
        for slot in slots:
            if perf_counter() > until:
                return  # in the next step
            self._slots[slot].look_ahead()

    def _fill(self, slots: Sequence[int]) -> None:
        begin = perf_counter()
        for slot in slots:
            held = self._slots[slot]
            if not held.is_filled:
                held.fill(self._rows[slot])
        self._fill_seconds += perf_counter() - begin

    def _join(self) -> None:
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.result()
