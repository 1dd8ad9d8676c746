"""A pipeline that can explain the draws of the choices that ask for it."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.explainer import Explainer
from bosal_decoding.explanation import Explanation
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plugin_slots import PLUGIN_SECONDS
from bosal_decoding.shadows import ExplainedRows, Shadows
from bosal_kernels import Control, LegalTokens


class ExplainingPipeline(Pipeline):
    """Batch state with shadows of the explained choices, which follow wherever they go."""

    def __init__(
        self,
        vocabulary_size: int,
        num_slots: int,
        device: torch.device | str = "cpu",
        *,
        plugin_seconds: float = PLUGIN_SECONDS,
    ) -> None:
        super().__init__(vocabulary_size, num_slots, device, plugin_seconds=plugin_seconds)
        self._shadows = Shadows(vocabulary_size, device, plugin_seconds=plugin_seconds)
        self._explainer = Explainer(self._shadows)

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
        self._shadows.add(slot, counterfactuals, history=history, seed=seed, choice=choice)

    def is_explained(self, slot: int) -> bool:
        return slot in self._shadows

    def explanations(
        self,
        streams: Tensor,
        controlled: Control,
        places: Sequence[int],
        tokens: Sequence[int],
    ) -> list[Explanation]:
        """Explain draws before they are committed.

        `streams` [R, V] are the explained choices' stream rows, choice after choice, as they were
        before anything was done to them; `places` are their rows in `controlled`, `tokens` what was
        drawn there.
        """
        slots = controlled.slots[places].tolist()
        counts = [self._shadows[slot].num_streams for slot in slots]
        masks = _by_place(self._legal(slots))
        begins = list(accumulate(counts[:-1], initial=0))
        dictated = self._dictation.within(None, slots, self._outputs)
        rows = ExplainedRows(
            streams=streams,
            begins=begins,
            masks=masks,
            dictated=_by_place(dictated),
            limits=self.surprise_limits(slots),
        )
        after = controlled.logits
        if len(places) < len(after):
            after = after.index_select(0, torch.tensor(places, device=after.device))
        return self._explainer.explain(rows, after, self.temperature(slots), slots, tokens)

    def commit(self, slots: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        super().commit(slots, token_lists)
        self._shadows.commit(slots, token_lists)

    def rollback(self, slot: int, num_tokens: int) -> None:
        super().rollback(slot, num_tokens)
        self._shadows.rollback(slot, num_tokens)

    def ban(self, slot: int, position: int, token: int) -> None:
        super().ban(slot, position, token)
        self._shadows.ban(slot, position, token)

    def set_in_constraint(self, slots: Sequence[int], is_inside: Sequence[bool]) -> None:
        super().set_in_constraint(slots, is_inside)
        self._shadows.set_in_constraint(slots, is_inside)

    def free(self, slot: int) -> None:
        super().free(slot)
        self._shadows.free(slot)

    def close(self) -> None:
        super().close()
        self._shadows.close()


def _by_place(legal: LegalTokens | None) -> dict[int, Tensor]:
    return {} if legal is None else dict(zip(legal.rows.tolist(), legal.bits, strict=True))
