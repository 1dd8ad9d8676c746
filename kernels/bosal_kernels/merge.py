"""One selection from those of parts of a batch, which were drawn on different ways."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bosal_kernels.logprobs import TopTokens
from bosal_kernels.select import Logprobs, Selection


def merged(
    parts: Sequence[tuple[Sequence[int], Selection, Tensor]], num_rows: int
) -> tuple[Selection, Tensor]:
    """Lay parts out as one batch [B]: each is its rows' places, its selection and a flag of each.

    Of rows that are in several parts the last one counts.
    """
    if len(parts) == 1 and len(parts[0][0]) == num_rows:
        return parts[0][1], parts[0][2]
    device = parts[0][1].tokens.device
    tokens = torch.full((num_rows,), -1, dtype=torch.int64, device=device)
    yielded, invalid = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    flags = torch.zeros_like(invalid)
    places = [torch.tensor(rows, dtype=torch.int64, device=device) for rows, _, _ in parts]
    for place, (_, selection, flag) in zip(places, parts, strict=True):
        tokens[place] = selection.tokens
        yielded[place] = selection.yielded
        invalid[place] = selection.invalid
        flags[place] = flag
    given = [
        (place, selection.logprobs)
        for place, (_, selection, _) in zip(places, parts, strict=True)
        if selection.logprobs is not None
    ]
    return (
        Selection(
            tokens=tokens,
            yielded=yielded,
            invalid=invalid,
            logprobs=_merged_logprobs(given, num_rows) if given else None,
        ),
        flags,
    )


def _merged_logprobs(given: Sequence[tuple[Tensor, Logprobs]], num_rows: int) -> Logprobs:
    rows = torch.cat([place[one.rows] for place, one in given])
    order = torch.arange(len(rows), device=rows.device)
    last = torch.full((num_rows,), -1, dtype=torch.int64, device=rows.device)
    last.scatter_reduce_(0, rows, order, "amax")
    # By place in the batch; of several entries of one row the last.
    kept = last[last >= 0]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(one, name) for _, one in given])[kept]

    def tops(name: str) -> TopTokens:
        tables: list[TopTokens] = [getattr(one, name) for _, one in given]
        width = max(table.ids.shape[1] for table in tables)
        wide = [table.widened(width) for table in tables]
        return TopTokens(
            torch.cat([table.ids for table in wide])[kept],
            torch.cat([table.logprobs for table in wide])[kept],
        )

    return Logprobs(
        rows=rows[kept],
        raw_logprob=joined("raw_logprob"),
        controlled_logprob=joined("controlled_logprob"),
        raw_rank=joined("raw_rank"),
        controlled_rank=joined("controlled_rank"),
        top_raw=tops("top_raw"),
        top_controlled=tops("top_controlled"),
    )
