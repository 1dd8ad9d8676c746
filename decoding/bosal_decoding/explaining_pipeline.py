"""A pipeline that can explain the draws of the choices that ask for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.explainer import Explainer
from bosal_decoding.explanation import Explanation
from bosal_decoding.pipeline import Pipeline
from bosal_kernels import Control


class ExplainingPipeline(Pipeline):
    """Batch state with shadows of the explained choices, which follow wherever they go."""

    def __init__(
        self, vocabulary_size: int, num_slots: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(vocabulary_size, num_slots, device)
        self._explainer = Explainer(vocabulary_size, device)

    def explain(
        self,
        slot: int,
        counterfactuals: Counterfactuals,
        *,
        history: Sequence[int],
        seed: int,
        choice: int,
    ) -> None:
        """Explain the choice that was just added to a slot, until the slot is freed."""
        self._explainer.add(slot, counterfactuals, history=history, seed=seed, choice=choice)

    def is_explained(self, slot: int) -> bool:
        return slot in self._explainer

    def explanations(
        self, raw: Tensor, controlled: Control, places: Sequence[int], tokens: Sequence[int]
    ) -> list[Explanation]:
        """Explain draws before they are committed.

        `raw` [E, V] are the base stream's rows as they were before anything was done to them
        (changed in place), `places` their rows in `controlled`, `tokens` what was drawn there.
        """
        slots = controlled.slots[places].tolist()
        rows = controlled.logits
        if len(places) < len(rows):
            rows = rows.index_select(0, torch.tensor(places, device=rows.device))
        return self._explainer.explain(raw, rows, self.temperature(slots), slots, tokens)

    def commit(self, slots: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        super().commit(slots, token_lists)
        self._explainer.commit(slots, token_lists)

    def rollback(self, slot: int, num_tokens: int) -> None:
        super().rollback(slot, num_tokens)
        self._explainer.rollback(slot, num_tokens)

    def ban(self, slot: int, position: int, token: int) -> None:
        super().ban(slot, position, token)
        self._explainer.ban(slot, position, token)

    def set_in_constraint(self, slots: Sequence[int], is_inside: Sequence[bool]) -> None:
        super().set_in_constraint(slots, is_inside)
        self._explainer.set_in_constraint(slots, is_inside)

    def free(self, slot: int) -> None:
        super().free(slot)
        self._explainer.free(slot)
