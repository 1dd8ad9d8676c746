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
from bosal_kernels.fused.builds import BUILDS, Build, build_for

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
        # Stands for masks where a build knows masks and a step has none.
        words = -(-state.vocab_size // 32)
        self._no_mask = torch.zeros((1, words), dtype=torch.int32, device=state.device)

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
        asked_of = Build(
            max_depth=max(counts),
            is_normed=any(one.is_normed for one in asked),
            is_legal=legal is not None,
            looks_back=any(one.looks_back for one in asked),
            has_reports=top_n >= 0,
            is_plausible=any(one.is_plausible for one in asked),
            has_moments=any(one.has_moments for one in asked),
        )
        found = self._launch(
            build_for(asked_of),
            rows,
            where,
            first,
            depths.int(),
            legal,
            num_tokens=num_tokens,
            forced=wishes[0] if wishes else None,
            top_n=top_n,
        )
        acted = self._acts(where, depths) if max(counts) > 1 else torch.zeros_like(where)
        given = found.logprobs if top_n >= 0 else None
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

    def warm_up(self, rows: Tensor, num_tokens: int) -> None:
        """Compile all that steps over rows like these may launch, and leave no trace.

        `rows` [1, V] have the type and width that will be drawn from, `num_tokens` of them exist.
        What is not on disk from an earlier start is compiled in several processes; then every build
        is launched once, for no slot.
        """
        from bosal_decoding.kernel_compiler import compile_builds

        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            compile_builds(rows.dtype, rows.shape[1], num_tokens)
        for build in BUILDS:
            self.launch_nothing(build, rows, num_tokens)
        # The torch path has a kernel of its own, and float32 rows.
        (first,) = sent([[0]], self._state.device)
        LegalTokens(first, self._no_mask).forbid(rows.to(torch.float32, copy=True))

    def launch_nothing(self, build: Build, rows: Tensor, num_tokens: int) -> None:
        """Launch a build for no slot."""
        none, here, one = sent([[-1], [0], [1]], self._state.device)
        self._launch(build, rows, none, here, one.int(), None, num_tokens=num_tokens)

    def _launch(
        self,
        build: Build,
        rows: Tensor,
        slots: Tensor,
        begins: Tensor,
        counts: Tensor,
        legal: LegalTokens | None,
        *,
        num_tokens: int,
        forced: Tensor | None = None,
        top_n: int = -1,
    ) -> "Selected":
        """Launch a step for slots [B] on the device; -1 is no slot."""
        legal_rows = legal_bits = None
        if build.is_legal:
            legal_bits = self._no_mask if legal is None else legal.bits
            legal_rows = torch.full((len(slots),), -1, dtype=torch.int32, device=rows.device)
            if legal is not None:
                order = torch.arange(len(legal.rows), dtype=torch.int32, device=rows.device)
                legal_rows.index_copy_(0, legal.rows, order)
        runs = repeats = None
        # Launches go to the current device, whichever holds the tensors.
        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            if build.looks_back:
                runs, repeats = self._scan(self._state, slots)
            masses = None
            if build.is_normed:
                masses = self._masses(
                    rows,
                    self._coupling,
                    slots,
                    begins,
                    counts,
                    max_depth=build.max_depth,
                    num_tokens=num_tokens,
                )
            reduced = self._reduce(
                rows,
                self._state,
                self._coupling,
                slots,
                begins,
                counts,
                max_depth=build.max_depth,
                num_tokens=num_tokens,
                masses=masses,
                legal_rows=legal_rows,
                legal_bits=legal_bits,
                runs=runs,
                repeats=repeats,
                keeps_raw=build.is_plausible or build.has_reports,
                has_moments=build.has_moments,
            )
            return self._select(
                reduced,
                self._state,
                self._coupling,
                forced=forced,
                top_n=max(top_n, 0) if build.has_reports else -1,
                is_plausible=build.is_plausible,
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
