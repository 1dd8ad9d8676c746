"""Draws through the fused kernels."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from bosal_decoding.fused_slots import FusedSlots
from bosal_kernels import (
    CombineState,
    LegalTokens,
    Logprobs,
    Region,
    Selection,
    SlotState,
    TopTokens,
    delivered,
    sent,
)

if TYPE_CHECKING:
    from bosal_kernels.fused.select import Selected

# What executes a step's control and draw.
Backend = Literal["torch", "triton"]


def backend_of(device: torch.device | str) -> Backend:
    """Return what executes steps on a device: the kernels where there are any."""
    is_cuda = torch.device(device).type == "cuda" and find_spec("triton") is not None
    return "triton" if is_cuda else "torch"


class FusedDraw:
    """Runs control and selection of fused slots in two launches.

    One more where rules look back, and one where streams are summed as log-probabilities.
    """

    def __init__(self, slots: FusedSlots, state: SlotState, coupling: CombineState) -> None:
        # Triton is on Linux only, and slow to import.
        from bosal_kernels.fused import control_reduce, history_scan, select, stream_masses

        self._scan = history_scan.history_scan
        self._masses = stream_masses.stream_masses
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
    ) -> tuple[Selection, Tensor, list[bool]]:
        """Draw for served slots [B], whose stream rows begin at `begins` in rows [R, V].

        Returns, on the host, the selection, where streams had a say, and which rows are left to the
        torch path: those with nothing left, where rules may yield, and those that are no
        distribution. The rows stay as they are. Waits for the device once.
        """
        asked = [self._slots[slot] for slot in slots]
        counts = [self._coupling.num_streams(slot) for slot in slots]
        top_n = max(one.logprobs for one in asked)
        where, first, depths, *wishes = sent(
            [slots, begins, counts, *([] if forced is None else [forced])], self._state.device
        )
        found = self._launch(
            rows,
            where,
            first,
            depths.int(),
            legal,
            num_tokens=num_tokens,
            max_depth=max(counts),
            forced=wishes[0] if wishes else None,
            top_n=top_n,
            is_plausible=any(one.is_plausible for one in asked),
            looks_back=any(one.looks_back for one in asked),
            has_moments=any(one.has_moments for one in asked),
            is_normed=any(one.is_normed for one in asked),
        )
        acted = self._acts(where, depths) if max(counts) > 1 else torch.zeros_like(where)
        given = found.logprobs
        of_rows = [] if given is None else [given.raw_logprobs, given.logprobs]
        if given is not None:
            of_rows += [given.raw_ranks, given.ranks, given.raw_top.ids, given.raw_top.logprobs]
            of_rows += [given.top.ids, given.top.logprobs]
        tokens, status, acted, *of_rows = delivered([found.tokens, found.status, acted, *of_rows])
        selection = Selection(
            tokens=tokens,
            yielded=torch.zeros_like(tokens),
            invalid=torch.zeros_like(tokens, dtype=torch.bool),
            logprobs=_logprobs([one.logprobs for one in asked], *of_rows) if of_rows else None,
        )
        return selection, acted != 0, cast(list[bool], (status != 0).tolist())

    def warm_up(self, rows: Tensor) -> None:
        """Compile what choices of one stream launch over rows like these, and leave no trace.

        Otherwise the first of them waits for it. `rows` [1, V] have the type that will be drawn
        from. Several streams, top-n-sigma and eta compile at their first use, once a machine.
        """
        none, here, one = sent([[-1], [0], [1]], self._state.device)
        words = -(-rows.shape[1] // 32)
        bits = torch.zeros((1, words), dtype=torch.int32, device=rows.device)
        for legal in (None, LegalTokens(here, bits)):
            for top_n in (-1, 0):
                for looks_back in (False, True):
                    self._launch(
                        rows,
                        none,
                        here,
                        one.int(),
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
        is_normed: bool = False,
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
            masses = None
            if is_normed:
                masses = self._masses(
                    rows,
                    self._coupling,
                    slots,
                    begins,
                    counts,
                    max_depth=max_depth,
                    num_tokens=num_tokens,
                )
            reduced = self._reduce(
                rows,
                self._state,
                self._coupling,
                slots,
                begins,
                counts,
                max_depth=max_depth,
                num_tokens=num_tokens,
                masses=masses,
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

    def _acts(self, slots: Tensor, depths: Tensor) -> Tensor:
        """Say of slots [B], groups of `depths` streams, whether these have a say at this step."""
        coupling = self._coupling
        position = self._state.position[slots]
        region, inside = coupling.region[slots], self._state.in_constraint[slots]
        found = (position >= coupling.after[slots]) & (position < coupling.until[slots])
        found &= (region == Region.ANY) | ((region == Region.INSIDE) == inside)
        return found & (depths > 1)


def _logprobs(wanted: Sequence[int], *of_rows: Tensor) -> Logprobs:
    """Pick the rows that ask for log-probabilities; each has as many best tokens as it asks for."""
    asking = [row for row, number in enumerate(wanted) if number >= 0]
    raw, controlled, raw_ranks, ranks, raw_ids, raw_tops, ids, tops = (
        one[asking] for one in of_rows
    )
    limits = torch.tensor([wanted[row] for row in asking])
    is_asked = torch.arange(ids.shape[1]) < limits[:, None]

    def table(ids: Tensor, logprobs: Tensor) -> TopTokens:
        return TopTokens(torch.where(is_asked, ids, -1), torch.where(is_asked, logprobs, torch.nan))

    return Logprobs(
        rows=torch.tensor(asking),
        raw_logprob=raw,
        controlled_logprob=controlled,
        raw_rank=raw_ranks,
        controlled_rank=ranks,
        top_raw=table(raw_ids, raw_tops),
        top_controlled=table(ids, tops),
    )
