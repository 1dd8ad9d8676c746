"""The stages of a step over a batch: combine, shape and mask, truncate and draw.

Rule 1: rows of a head beyond the vocabulary are -inf before anything else sees them.
Rule 2: what a step does to a choice depends on its plan, its history, its output and its seed,
never on its neighbours, its slot or how its output was committed.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from bosal_decoding.errors import PluginFault
from bosal_decoding.follower import Follower
from bosal_decoding.fused_draw import Backend, FusedDraw, backend_of
from bosal_decoding.legality import Legality
from bosal_decoding.plugin_slots import PLUGIN_SECONDS, PluginSlots
from bosal_decoding.slots import Slots
from bosal_kernels import (
    YIELDED_PLAUSIBILITY,
    Combined,
    Control,
    Logprobs,
    Selection,
    certainty,
    combine,
    control,
    merged,
    on_host,
    score,
    select,
)


class Pipeline:
    """Steps over the slots of one model; used by one thread.

    Stages read `slots` and change rows; whoever drew commits to `slots` what came of it.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_slots: int,
        device: torch.device | str = "cpu",
        *,
        plugin_seconds: float = PLUGIN_SECONDS,
        backend: Backend | None = None,
        legality: Legality | None = None,
        follower: Follower | None = None,
    ) -> None:
        """Hold `num_slots` choices for a model whose head has `vocabulary_size` rows.

        A step waits so long for each plug-in. `backend` executes draws; unset is the device's own.
        `legality` stands for the slots' own; `follower` goes where they go.
        """
        self.backend = backend_of(device) if backend is None else backend
        is_fused = self.backend == "triton"
        self.slots = Slots(
            vocabulary_size,
            num_slots,
            device,
            plugins=PluginSlots(plugin_seconds),
            packs_touched=is_fused,
            legality=legality,
            follower=follower,
        )
        self._fused = (
            FusedDraw(self.slots.fused, self.slots.state, self.slots.coupling) if is_fused else None
        )

    def warm_up(self, dtype: torch.dtype = torch.float32, num_tokens: int | None = None) -> None:
        """Compile what draws from rows of a type need, where their backend compiles.

        `num_tokens` exist; unset all that the head has rows for.
        """
        if self._fused is not None:
            state = self.slots.state
            rows = torch.zeros((1, state.vocab_size), dtype=dtype, device=state.device)
            self._fused.warm_up(rows, state.vocab_size if num_tokens is None else num_tokens)

    def combine(self, rows: Tensor, slots: Sequence[int]) -> Combined:
        """Combine the slots' stream rows [R, V], group after group, into one row each [B, V].

        Rows are float32, contiguous and the pipeline's until `apply` is done.
        """
        self._pad(rows)
        self.slots.read_regions(slots)
        return self._combine(rows, slots)

    def apply(self, logits: Tensor | Combined, slots: Sequence[int]) -> Control:
        """Shape and mask rows [B, V] (float32, contiguous, changed in place)."""
        if isinstance(logits, Tensor):
            self._pad(logits)
            self.slots.read_regions(slots)
            return self._control(logits, slots)
        controlled = self._control(logits.rows, slots, logits)
        if logits.masked:
            self._relax(controlled, logits, slots)
        return controlled

    def sample(self, controlled: Control, forced: Sequence[int] | None = None) -> Selection:
        """Truncate and draw one token per row, with the log-probabilities that were asked for.

        A forced token, -1 for none, is taken instead where it is legal.
        """
        tokens = None if forced is None else self.slots.index(forced)
        return select(controlled, self.slots.state, controlled.slots, tokens)

    def draw(
        self, rows: Tensor, slots: Sequence[int], forced: Sequence[int] | None = None
    ) -> tuple[Selection, Tensor]:
        """Combine, apply and sample in one: the selection, and where streams had a say, [B] bool.

        Rows are as for `combine`, or of another float type where the kernels draw: for the slots
        that they serve, where this is their backend. The torch path draws for the others and for
        rows where rules may yield. What is returned is on the host: a step of the kernels waits for
        its device here, once.
        """
        if self._fused is None:
            return self._draw(rows, slots, forced)
        fused = self._fused
        counts = [self.slots.num_streams(slot) for slot in slots]
        begins = list(accumulate(counts[:-1], initial=0))
        wishes = [-1] * len(slots) if forced is None else forced
        served = [
            i
            for i, slot in enumerate(slots)
            if slot in self.slots.fused and not self.slots.plugins.are_used([slot])
        ]
        parts: list[tuple[Sequence[int], Selection, Tensor]] = []
        left = sorted(set(range(len(slots))) - set(served))
        if served:
            own = [slots[i] for i in served]
            self.slots.read_regions(own)
            self.slots.resolve(own)
            selection, acted, is_left = fused.draw(
                rows,
                [begins[i] for i in served],
                own,
                self.slots.legal(own),
                num_tokens=self.slots.num_tokens,
                forced=None if forced is None else [wishes[i] for i in served],
            )
            parts.append((served, selection, acted))
            left = sorted([*left, *(i for i, one in zip(served, is_left, strict=True) if one)])
        if left:
            taken = [begins[i] + stream for i in left for stream in range(counts[i])]
            own = [slots[i] for i in left]
            given = None if forced is None else [wishes[i] for i in left]
            float_rows = rows[self.slots.index(taken)].float()
            parts.append((left, *self._draw(float_rows, own, given)))
        return merged(parts, len(slots))

    def score(self, controlled: Control, tokens: Sequence[int]) -> Logprobs:
        """Return the log-probabilities of given tokens [B], of the slots that report any."""
        return score(controlled, self.slots.state, self.slots.index(tokens))

    def certainty(self, combined: Combined, places: Sequence[int]) -> tuple[list[float], list[int]]:
        """Of the base's rows at some places, the greatest probability and its token."""
        where = combined.base[self.slots.index(places)]
        top1, _ = certainty(combined.streams, where)
        best = combined.streams.index_select(0, where).argmax(1)
        return top1.tolist(), best.tolist()

    def take_faults(self) -> dict[int, PluginFault]:
        """Return the slots whose plug-in failed since the last call; their rows are not edited."""
        return self.slots.plugins.take_faults()

    def take_plugin_seconds(self) -> dict[str, float]:
        """Return what the plug-ins of the batches since the last call took, by rule."""
        return self.slots.plugins.take_seconds()

    def take_fill_seconds(self) -> float:
        """Return what filling the constraints' masks took since the last call."""
        return self.slots.take_fill_seconds()

    def close(self) -> None:
        """Let go of the threads that fill masks and run plug-ins."""
        self.slots.close()

    def _draw(
        self, rows: Tensor, slots: Sequence[int], forced: Sequence[int] | None
    ) -> tuple[Selection, Tensor]:
        """Draw by the torch path."""
        combined = self.combine(rows, slots)
        selection = self.sample(self.apply(combined, slots), forced)
        acted = combined.acted
        acted = torch.zeros_like(selection.invalid) if acted is None else acted
        return on_host(selection, acted)

    def _pad(self, rows: Tensor) -> None:
        """Mask the rows of the head behind the vocabulary, which count in no normaliser."""
        if self.slots.num_tokens < rows.shape[1]:
            rows[:, self.slots.num_tokens :] = -torch.inf

    def _combine(self, rows: Tensor, slots: Sequence[int], *, is_masking: bool = True) -> Combined:
        return combine(
            rows,
            self.slots.coupling,
            self.slots.state,
            slots,
            is_masking=is_masking,
        )

    def _control(
        self, rows: Tensor, slots: Sequence[int], combined: Combined | None = None
    ) -> Control:
        self.slots.leave(slots)
        if self.slots.plugins.are_used(slots):
            combined = self._plug_in(rows, slots, combined)
        return control(
            rows,
            self.slots.state,
            self.slots.state.index(slots),
            self.slots.legal(slots),
            combined=combined,
        )

    def _plug_in(self, rows: Tensor, slots: Sequence[int], combined: Combined | None) -> Combined:
        """Let plug-ins change rows [B, V] in place; the model's own rows are kept beside."""
        if combined is None or not combined.is_coupled:
            # Gates read them, and so do log-probabilities.
            combined = Combined(
                rows=rows,
                acted=torch.zeros(len(rows), dtype=torch.bool, device=rows.device),
                streams=rows.clone(),
                base=torch.arange(len(rows), device=rows.device),
                masked=(),
            )
        sure = None
        if self.slots.plugins.is_gated(slots):
            top1, entropy = certainty(combined.streams, combined.base)
            sure = (top1.tolist(), entropy.tolist())
        self.slots.plugins.edit(
            rows[:, : self.slots.num_tokens],
            slots,
            [self.slots.output(slot) for slot in slots],
            self.slots.state.in_constraint[self.slots.index(slots)].tolist(),
            sure,
        )
        return combined

    def _relax(self, controlled: Control, combined: Combined, slots: Sequence[int]) -> None:
        """Control rows again without what the base held implausible, where nothing else is left.

        Plausibility yields before any rule does.
        """
        is_empty = (controlled.yielded != 0) | (controlled.row_max == -torch.inf)
        is_empty &= ~controlled.invalid
        masked = set(combined.masked)
        places = [i for i in is_empty.nonzero().squeeze(1).tolist() if i in masked]
        if not places:
            return
        own = [slots[i] for i in places]
        rows = [
            int(combined.base[i]) + stream
            for i in places
            for stream in range(self.slots.num_streams(slots[i]))
        ]
        again = self._combine(combined.streams[self.slots.index(rows)], own, is_masking=False)
        again_controlled = self._control(again.rows, own, again)
        where = self.slots.index(places)
        for ours, theirs in (
            (controlled.logits, again_controlled.logits),
            (controlled.group_max, again_controlled.group_max),
            (controlled.row_max, again_controlled.row_max),
            (controlled.first, again_controlled.first),
            (controlled.yielded, again_controlled.yielded | YIELDED_PLAUSIBILITY),
            (controlled.invalid, again_controlled.invalid),
        ):
            if ours is not None and theirs is not None:
                ours[where] = theirs
