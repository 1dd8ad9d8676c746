"""Draws through the fused kernels."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from bosal_decoding.fused_slots import FusedSlots
from bosal_kernels import CombineState, LegalTokens, Logprobs, Region, Selection, SlotState

if TYPE_CHECKING:
    from bosal_kernels.fused.select import Selected

# What executes a step's control and draw.
Backend = Literal["torch", "triton"]


def backend_of(device: torch.device | str) -> Backend:
    """Return what executes steps on a device: the kernels where there are any."""
    is_cuda = torch.device(device).type == "cuda" and find_spec("triton") is not None
    return "triton" if is_cuda else "torch"


class FusedDraw:
    """Runs control and selection of fused slots in two launches, or three where rules look back."""

    def __init__(self, slots: FusedSlots, state: SlotState, coupling: CombineState) -> None:
        # Triton is on Linux only, and slow to import.
        from bosal_kernels.fused import control_reduce, history_scan, select

        self._scan = history_scan.history_scan
        self._reduce = control_reduce.control_reduce
        self._select = select.select
        self._slots = slots
        self._state = state
        self._coupling = coupling

    def draw(
        self,
        rows: Tensor,
        begins: Sequence[int],
        slots: Sequence[int],
        legal: LegalTokens | None,
        *,
        num_tokens: int,
        forced: Sequence[int] | None = None,
    ) -> tuple[Selection, list[bool]]:
        """Draw for served slots [B], whose stream rows begin at `begins` in rows [R, V].

        Returns the selection, and which rows are left to the torch path: those with nothing left,
        where rules may yield, and those that are no distribution. The rows stay as they are.
        """
        asked = [self._slots[slot] for slot in slots]
        counts = [self._coupling.num_streams(slot) for slot in slots]
        top_n = max(one.logprobs for one in asked)
        found = self._launch(
            rows,
            self._tensor(slots),
            self._tensor(begins),
            self._tensor(counts).int(),
            legal,
            num_tokens=num_tokens,
            max_depth=max(counts),
            forced=None if forced is None else self._tensor(forced),
            top_n=top_n,
            is_plausible=any(one.is_plausible for one in asked),
            looks_back=any(one.looks_back for one in asked),
            has_moments=any(one.has_moments for one in asked),
        )
        logprobs = None
        if found.logprobs is not None:
            asking = [i for i, one in enumerate(asked) if one.logprobs >= 0]
            which = self._tensor(asking)
            given = found.logprobs
            width = torch.arange(max(top_n, 0), device=rows.device)
            # A row has as many best tokens as it asks for.
            is_asked = width < self._tensor([asked[i].logprobs for i in asking])[:, None]
            logprobs = Logprobs(
                rows=which,
                raw_logprob=given.raw_logprobs[which],
                controlled_logprob=given.logprobs[which],
                raw_rank=given.raw_ranks[which],
                controlled_rank=given.ranks[which],
                top_raw=given.raw_top.at(which, is_asked),
                top_controlled=given.top.at(which, is_asked),
            )
        selection = Selection(
            tokens=found.tokens,
            yielded=torch.zeros_like(found.tokens),
            invalid=torch.zeros_like(found.tokens, dtype=torch.bool),
            logprobs=logprobs,
        )
        # The step's one wait for the device: the tokens are there as well.
        return selection, cast(list[bool], (found.status != 0).tolist())

    def warm_up(self, rows: Tensor) -> None:
        """Compile what choices of one stream launch over rows like these, and leave no trace.

        Otherwise the first of them waits for it. `rows` [1, V] have the type that will be drawn
        from. Several streams, top-n-sigma and eta compile at their first use, once a machine.
        """
        none, here, one = self._tensor([-1]), self._tensor([0]), self._tensor([1]).int()
        words = -(-rows.shape[1] // 32)
        bits = torch.zeros((1, words), dtype=torch.int32, device=rows.device)
        for legal in (None, LegalTokens(here, bits)):
            for top_n in (-1, 0):
                for looks_back in (False, True):
                    self._launch(
                        rows,
                        none,
                        here,
                        one,
                        legal,
                        num_tokens=rows.shape[1],
                        top_n=top_n,
                        looks_back=looks_back,
                    )

    def _launch(
        self,
        rows: Tensor,
        slots: Tensor,
        begins: Tensor,
        counts: Tensor,
        legal: LegalTokens | None,
        *,
        num_tokens: int,
        max_depth: int = 1,
        forced: Tensor | None = None,
        top_n: int = -1,
        is_plausible: bool = False,
        looks_back: bool = False,
        has_moments: bool = False,
    ) -> "Selected":
        """Launch a step for slots [B] on the device; -1 is no slot."""
        legal_rows = None
        if legal is not None:
            places = torch.full((len(slots),), -1, dtype=torch.int32, device=rows.device)
            order = torch.arange(len(legal.rows), dtype=torch.int32, device=rows.device)
            legal_rows = places.index_copy(0, legal.rows, order)
        runs = repeats = None
        # Launches go to the current device, whichever holds the tensors.
        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            if looks_back:
                runs, repeats = self._scan(self._state, slots)
            reduced = self._reduce(
                rows,
                self._state,
                self._coupling,
                slots,
                begins,
                counts,
                max_depth=max_depth,
                num_tokens=num_tokens,
                legal_rows=legal_rows,
                legal_bits=None if legal is None else legal.bits,
                runs=runs,
                repeats=repeats,
                keeps_raw=is_plausible or top_n >= 0,
                has_moments=has_moments,
            )
            return self._select(
                reduced,
                self._state,
                self._coupling,
                forced=forced,
                top_n=top_n,
                is_plausible=is_plausible,
            )

    def acts(self, slots: Sequence[int]) -> Tensor:
        """Say of slots [B] whether their streams have a say at this step."""
        index, coupling = self._tensor(slots), self._coupling
        position = self._state.position[index]
        region, inside = coupling.region[index], self._state.in_constraint[index]
        counts = self._tensor([self._coupling.num_streams(slot) for slot in slots])
        found = (position >= coupling.after[index]) & (position < coupling.until[index])
        found &= (region == Region.ANY) | ((region == Region.INSIDE) == inside)
        return found & (counts > 1)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._state.device)
