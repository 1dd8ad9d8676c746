"""Evaluations as grids of text, for a terminal and for a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bosal_lab.compare import Comparison, Slice
from bosal_lab.outcomes import is_share
from bosal_lab.summary import Floor, Summary
from bosal_server.statistics.intervals import Interval

__all__ = [
    "Grid",
    "arms",
    "categories",
    "comparisons",
    "floors",
    "pairings",
    "shifts",
    "slices",
    "unscored",
]


@dataclass(frozen=True, slots=True)
class Grid:
    """A header and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def arms(found: Sequence[Summary]) -> Grid:
    """One row an arm: what it achieved, and what is missing from the count."""
    metric = found[0].metric if found else ""
    return Grid(
        ("arm", "items", metric, "stopped", "tokens", "seconds", "errors", "not scored", "missing"),
        tuple(
            (
                one.arm.name,
                str(one.items),
                _with_interval(one.value, metric),
                _share(one.stopped.value),
                _number(one.tokens, 1),
                _number(one.seconds, 2),
                str(one.errors),
                str(one.unscored),
                str(one.missing),
            )
            for one in found
        ),
    )


def floors(found: Sequence[Floor]) -> Grid:
    """One row a floor."""
    return Grid(
        ("floor", "items", "success"),
        tuple((one.name, str(one.items), _with_interval(one.value)) for one in found),
    )


def categories(
    found: Sequence[Summary], below: Sequence[Floor], *, has_intervals: bool = True
) -> Grid:
    """One row a category, one column an arm or a floor."""
    names = list(dict.fromkeys(name for one in found for name in one.categories))
    show = _with_interval if has_intervals else _only_value

    def cells(name: str) -> Iterator[str]:
        for arm in found:
            yield show(arm.categories[name], arm.metric) if name in arm.categories else "-"
        for floor in below:
            yield _only_value(floor.categories[name]) if name in floor.categories else "-"

    return Grid(
        ("category", *(one.arm.name for one in found), *(one.name for one in below)),
        tuple((name, *cells(name)) for name in names),
    )


def unscored(found: Mapping[str, Mapping[str, int]]) -> Grid:
    """One row for each metric that some answers have no value of, by arm."""
    metrics = sorted({metric for counts in found.values() for metric in counts})
    return Grid(
        ("not scored", *found),
        tuple(
            (metric, *(str(counts.get(metric, 0)) for counts in found.values()))
            for metric in metrics
        ),
    )


def shifts(found: Sequence[Summary]) -> Grid:
    """One row an arm and prompt: shares of tokens by their rank before any rule."""
    rows = []
    for one in found:
        for prompt, shift in (("its own", one.shift), ("plain base", one.plain_shift)):
            if shift is not None:
                shares = map(_share, (shift.unshifted, shift.marginal, shift.shifted))
                rows.append((one.arm.name, prompt, str(shift.tokens), *shares))
    return Grid(
        ("arm", "ranked after", "tokens", "rank 1 (unshifted)", "2-3 (marginal)", ">3 (shifted)"),
        tuple(rows),
    )


def comparisons(found: Sequence[Comparison]) -> Grid:
    """One row an arm that was compared."""
    return Grid(
        ("arm", "items", "difference", "p", "p, Holm", "discordant", "method"),
        tuple(
            (
                one.second,
                str(one.whole.items) + (f" (-{one.left_out})" if one.left_out else ""),
                _signed(one.whole.difference),
                _p(one.whole.p),
                _p(one.whole.adjusted_p),
                _discordant(one.whole),
                one.whole.method,
            )
            for one in found
        ),
    )


def pairings(found: Sequence[Comparison]) -> Grid:
    """One row an arm: what pairing and shared noise saved, and where answers part."""
    return Grid(
        ("arm", "saving by pairing", "saving by coupling", "equal answers", "others part at token"),
        tuple(
            (
                one.second,
                _factor(one.saving.unpaired),
                _coupling(one),
                _share(one.divergence.identical / max(1, one.divergence.pairs)),
                _number(one.divergence.median_token, 0),
            )
            for one in found
        ),
    )


def slices(comparison: Comparison) -> Grid:
    """One row a category; looking around, not deciding."""
    return Grid(
        ("category", "items", comparison.first, comparison.second, "difference", "p", "p, FDR",
         "discordant"),
        tuple(
            (
                one.name,
                str(one.items),
                _value(one.first, comparison.metric),
                _value(one.second, comparison.metric),
                _signed(one.difference),
                _p(one.p),
                _p(one.adjusted_p),
                _discordant(one),
            )
            for one in comparison.slices
        ),
    )  # fmt: skip


def _discordant(one: Slice) -> str:
    if one.mcnemar is None:
        return "-"
    return f"-{one.mcnemar.only_first} +{one.mcnemar.only_second}"


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _with_interval(interval: Interval, metric: str = "success") -> str:
    value, low, high = interval.value, interval.low, interval.high
    if not is_share(metric) or max(abs(low), abs(high)) > 1:
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"
    return f"{_share(value)} [{low * 100:.1f}, {high * 100:.1f}]"


def _only_value(interval: Interval, metric: str = "success") -> str:
    return _with_interval(interval, metric).partition(" ")[0]


def _value(value: float, metric: str) -> str:
    return _share(value) if is_share(metric) else f"{value:.3f}"


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _p(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _factor(value: float) -> str:
    return "all" if value == float("inf") else f"{value:.2f}x"


def _coupling(one: Comparison) -> str:
    if not one.is_coupled:
        return "not coupled"
    if one.saving.uncoupled is None:
        return "needs 2 samples"
    return _factor(one.saving.uncoupled)
