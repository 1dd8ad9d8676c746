"""Which tokens may come next in a slot: what is dictated, within what its constraint allows."""

from collections.abc import Sequence

import torch

from bosal_decoding.constraints.constrained_slot import Verdict
from bosal_decoding.constraints.program import Program
from bosal_decoding.constraints.slots import ConstraintSlots
from bosal_decoding.dictation import Dictation
from bosal_decoding.opening import Opening
from bosal_decoding.plan import Plan
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import LegalTokens, on_device


class Legality:
    """The hard languages of a pipeline's slots; outputs are the tokens committed to them."""

    def __init__(
        self, num_slots: int, vocabulary_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self._device = torch.device(device)
        self._constraints = ConstraintSlots(num_slots, vocabulary_size)
        self._dictation = Dictation(vocabulary_size)

    def admit(
        self, slot: int, plan: Plan, program: Program | None, max_tokens: int, opening: Opening
    ) -> None:
        """Give a slot to a new choice; `program` is its plan's constraint, compiled."""
        constraint = plan.recipe.constraint
        if (program is None) != (constraint is None):
            raise ValueError("a plan with a constraint goes with its program, another with none")
        self._dictation.add(slot, plan.vocabulary, opening)
        self._constraints.free(slot)
        if program is not None:
            self._constraints.add(slot, program, max_tokens, plan.eos_ids)
            brackets = [plan.vocabulary.ids_of(bracket) for bracket in "]}"]
            if constraint is not None and constraint.rules_in_strings and all(brackets):
                self._constraints.watch_text(slot, (brackets[0][0], brackets[1][0]))

    def start(self, slots: Sequence[int]) -> None:
        """Begin to fill the constraints' masks of slots."""
        self._constraints.start(slots)

    def legal(self, slots: Sequence[int], outputs: Sequence[Sequence[int]]) -> LegalTokens | None:
        """Return the masks of a batch; `outputs` are those of all slots. None: all is legal."""
        legal = self._dictation.within(self._constraints.legal(slots), slots, outputs)
        return self._sent(legal)

    def dictated(
        self, slots: Sequence[int], outputs: Sequence[Sequence[int]]
    ) -> LegalTokens | None:
        """Return the part of the masks that holds without any constraint."""
        return self._sent(self._dictation.within(None, slots, outputs))

    def in_text(self, slots: Sequence[int]) -> dict[int, bool]:
        """Say of the slots that ask whether their masks allow free text."""
        return self._constraints.in_text(slots)

    def is_bound(self, slot: int) -> bool:
        """Whether a slot has a constraint, or was ever told what to say."""
        return slot in self._dictation or slot in self._constraints

    def commit(self, slot: int, tokens: Sequence[int]) -> None:
        self._constraints.commit(slot, tokens)

    def rollback(self, slot: int, num_tokens: int, num_left: int) -> None:
        """Take back the last tokens of a slot, so that some are left."""
        self._constraints.rollback(slot, num_tokens)
        self._dictation.rollback(slot, num_left)

    def settle(self, slot: int, output: Sequence[int]) -> Verdict:
        """Judge a slot after its last token.

        Nothing is said while something is dictated, which the constraint allows.
        """
        if self._dictation.binds(slot, output):
            return Verdict.GO_ON
        return self._constraints.settle(slot)

    def dictate(
        self, slot: int, vocabulary: Vocabulary, position: int, tokens: Sequence[int]
    ) -> None:
        """Let tokens come at an output position and behind it, whatever the model thinks."""
        self._dictation.dictate(slot, vocabulary, position, tokens)

    def pending(self, slot: int, position: int) -> list[int]:
        """The tokens that are dictated at a slot's position and behind it."""
        return list(self._dictation.pending(slot, position))

    def forced(self, slot: int, position: int) -> list[int]:
        """The tokens that must come at a slot's position, dictated or by its constraint."""
        return self.pending(slot, position) or self._constraints.forced(slot)

    def is_dictated(self, slot: int, output: Sequence[int]) -> bool:
        """Whether a rule or the constraint says what comes behind a slot's output."""
        return self._dictation.binds(slot, output) or bool(self._constraints.forced(slot))

    def was_forced(self, slot: int, last: int) -> bool:
        """Whether the token at a slot's last position was not the model's choice."""
        return bool(self._dictation.pending(slot, last)) or self._constraints.was_forced(slot)

    def fallback(self, slot: int) -> list[int]:
        """Return the completion that was known before a slot's last token, after RETRACT."""
        return self._constraints.fallback(slot)

    def force(self, slot: int, tokens: Sequence[int]) -> None:
        """Let a constrained slot close its text with these tokens."""
        self._constraints.force(slot, tokens)

    def blocked(self, slot: int) -> Verdict:
        """Whether it was the constraint that left a slot without a legal token."""
        return self._constraints.blocked(slot)

    def is_legal(self, slot: int, token: int) -> bool:
        """Whether a slot's constraint allows a token next, by the mask that is in force."""
        return self._constraints.is_legal(slot, token)

    def is_whole(self, slot: int) -> bool:
        """Whether a slot has a constraint which its output satisfies."""
        return self._constraints.is_accepting(slot)

    def lift_constraint(self, slot: int) -> None:
        """Let a slot go on without its constraint."""
        self._constraints.free(slot)

    def free(self, slot: int) -> None:
        self._constraints.free(slot)
        self._dictation.free(slot)

    def take_fill_seconds(self) -> float:
        """Return what filling masks took since the last call."""
        return self._constraints.take_fill_seconds()

    def close(self) -> None:
        """End the thread that fills masks."""
        self._constraints.close()

    def _sent(self, legal: LegalTokens | None) -> LegalTokens | None:
        """Bring masks, which are made on the host, to the device."""
        if legal is None or self._device.type == "cpu":
            return legal
        rows = on_device(legal.rows, self._device)
        return LegalTokens(rows, on_device(legal.bits, self._device, torch.int32))
