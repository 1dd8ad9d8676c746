"""The slots whose rules ask whether the output ends a sentence."""

from collections.abc import Sequence
from typing import Final

from bosal_decoding.plan import Plan
from bosal_decoding.sentences import ends_sentence
from bosal_decoding.vocabulary import Vocabulary

# What stands behind a sentence's mark (quotes, brackets, line breaks) is shorter than this.
_TAIL_TOKENS: Final = 16


class SentenceSlots:
    """Reads the ends of outputs, of the slots that want to know."""

    def __init__(self) -> None:
        self._vocabularies: dict[int, Vocabulary] = {}

    def admit(self, slot: int, plan: Plan) -> None:
        """Learn whether a slot's new choice asks."""
        self.free(slot)
        if plan.waits_for_sentences:
            self._vocabularies[slot] = plan.vocabulary

    def free(self, slot: int) -> None:
        self._vocabularies.pop(slot, None)

    def ends(self, slots: Sequence[int], outputs: Sequence[Sequence[int]]) -> dict[int, bool]:
        """Say of the slots that ask whether their outputs, among those of all slots, end one."""
        return {
            slot: ends_sentence(
                self._vocabularies[slot]
                .bytes_of(outputs[slot][-_TAIL_TOKENS:])
                .decode(errors="ignore")
            )
            for slot in slots
            if slot in self._vocabularies
        }
