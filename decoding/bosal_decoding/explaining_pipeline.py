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
from bosal_decoding.shadow import ExplainedRows
from bosal_decoding.shadows import Shadows
from bosal_kernels import Control, LegalTokens, temperature_of


class ExplainingPipeline(Pipeline):
    """A pipeline with shadows of the explained choices, which follow wherever their slots go."""

    def __init__(
        self,
        vocabulary_size: int,
        num_slots: int,
        device: torch.device | str = "cpu",
        *,
        plugin_seconds: float = PLUGIN_SECONDS,
        max_shadows: int | None = None,
    ) -> None:
        """As a pipeline; all explained choices together have at most `max_shadows`."""
        self._shadows = Shadows(
            vocabulary_size, device, plugin_seconds=plugin_seconds, most=max_shadows
        )
        super().__init__(
            vocabulary_size,
            num_slots,
            device,
            plugin_seconds=plugin_seconds,
            follower=self._shadows,
        )
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
        # It was inside of its constraint before there was a shadow to follow it there.
        self._shadows.set_in_constraint([slot], [self.slots.is_in_constraint(slot)])

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
        masks = _by_place(self.slots.legal(slots))
        begins = list(accumulate(counts[:-1], initial=0))
        dictated = self.slots.dictated(slots)
        rows = ExplainedRows(
            streams=streams,
            begins=begins,
            masks=masks,
            dictated=_by_place(dictated),
            limits=self.slots.surprise.limits(slots),
        )
        after = controlled.logits
        if len(places) < len(after):
            after = after.index_select(0, torch.tensor(places, device=after.device))
        temperature = temperature_of(self.slots.state, self.slots.index(slots))
        return self._explainer.explain(rows, after, temperature, slots, tokens)

    def close(self) -> None:
        super().close()
        self._shadows.close()


def _by_place(legal: LegalTokens | None) -> dict[int, Tensor]:
    return {} if legal is None else dict(zip(legal.rows.tolist(), legal.bits, strict=True))
