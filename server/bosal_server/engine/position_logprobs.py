"""Log-probabilities as the kernels lay them out, cut into one position's each."""

from bosal_kernels import Logprobs
from bosal_kernels import TopTokens as TopTable
from bosal_server.engine.request import PositionLogprobs, TopTokens


def positions(logprobs: Logprobs) -> dict[int, PositionLogprobs]:
    """Return the log-probabilities of a batch's rows that have any, by place."""
    top_raw = _top_lists(logprobs.top_raw)
    top_controlled = _top_lists(logprobs.top_controlled)
    columns = zip(
        logprobs.raw_logprob.tolist(),
        logprobs.raw_rank.tolist(),
        logprobs.controlled_logprob.tolist(),
        logprobs.controlled_rank.tolist(),
        top_raw,
        top_controlled,
        strict=True,
    )
    return {
        row: PositionLogprobs(*values)
        for row, values in zip(logprobs.rows.tolist(), columns, strict=True)
    }


def _top_lists(table: TopTable) -> list[TopTokens]:
    """Cut a padded table into one list per row."""
    lists = []
    for ids, values in zip(table.ids.tolist(), table.logprobs.tolist(), strict=True):
        count = ids.index(-1) if -1 in ids else len(ids)
        lists.append(TopTokens(ids[:count], values[:count]))
    return lists
