"""Selections on the host, where whoever drew reads them."""

from torch import Tensor

from bosal_kernels.logprobs import TopTokens
from bosal_kernels.select import Logprobs, Selection
from bosal_kernels.transfer import delivered


def on_host(selection: Selection, acted: Tensor) -> tuple[Selection, Tensor]:
    """Return a selection and what goes with its rows [B] on the host: one wait for the device."""
    given = selection.logprobs
    tensors = [selection.tokens, selection.yielded, selection.invalid, acted]
    if given is not None:
        tensors += [
            given.rows,
            given.raw_logprob,
            given.controlled_logprob,
            given.raw_rank,
            given.controlled_rank,
            given.top_raw.ids,
            given.top_raw.logprobs,
            given.top_controlled.ids,
            given.top_controlled.logprobs,
        ]
    tokens, yielded, invalid, acted, *rest = delivered(tensors)
    logprobs = None
    if given is not None:
        rows, raw, controlled, raw_rank, rank, raw_ids, raw_tops, ids, tops = rest
        logprobs = Logprobs(
            rows=rows,
            raw_logprob=raw,
            controlled_logprob=controlled,
            raw_rank=raw_rank,
            controlled_rank=rank,
            top_raw=TopTokens(raw_ids, raw_tops),
            top_controlled=TopTokens(ids, tops),
        )
    found = Selection(tokens=tokens, yielded=yielded, invalid=invalid, logprobs=logprobs)
    return found, acted
