"""The slots whose rules ask whether the output ends a sentence."""

from collections.abc import Sequence
from typing import Final

import torch

from bosal_decoding.plan import Plan
from bosal_decoding.sentences import ends_sentence
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import SlotState, on_device

# What stands behind a sentence's mark (quotes, brackets, line breaks) is shorter than this.
_TAIL_TOKENS: Final = 16


class SentenceSlots:
    """Reads the ends of outputs into a pipeline's state, of the slots that want to know."""

    def __init__(self, state: SlotState) -> None:
        self._state = state
        self._vocabularies: dict[int, Vocabulary] = {}

    def admit(self, slot: int, plan: Plan) -> None:
        """Learn whether a slot's new choice asks."""
        self.free(slot)
        if plan.waits_for_sentences:
            self._vocabularies[slot] = plan.vocabulary

    def free(self, slot: int) -> None:
        self._vocabularies.pop(slot, None)

    def read(self, slots: Sequence[int], outputs: Sequence[Sequence[int]]) -> None:
        """Look whether the outputs of slots, among those of all slots, end a sentence."""
        if not self._vocabularies:
            return
        ends = {
            slot: ends_sentence(
                self._vocabularies[slot]
                .bytes_of(outputs[slot][-_TAIL_TOKENS:])
                .decode(errors="replace")
            )
            for slot in slots
            if slot in self._vocabularies
        }
        if ends:
            found = on_device(list(ends.values()), self._state.device, torch.bool)
            self._state.at_sentence_end[on_device(list(ends), self._state.device)] = found
