"""Plots of an evaluation as SVG text that stands in a page by itself."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bosal_lab.compare import Comparison
from bosal_lab.summary import Summary
from bosal_server.statistics.intervals import Interval

__all__ = ["categories_figure", "differences_figure", "lengths_figure", "success_figure"]

_STYLE: dict[Any, Any] = {
    # Names are shown as they are.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3ad",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ebee",
    "text.color": "#22272e",
    "axes.labelcolor": "#22272e",
    "xtick.color": "#56606b",
    "ytick.color": "#22272e",
}
# Paul Tol's muted scheme: told apart by colour-blind readers too.
_COLOURS = (
    "#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933",
    "#aa4499", "#777777",
)  # fmt: skip


def success_figure(arms: Mapping[str, Interval], floors: Mapping[str, Interval], label: str) -> str:
    """Draw one rate with its interval a row; floors are grey, below the arms."""
    names = [*arms, *floors]

    def draw(axes: Axes) -> None:
        _points(axes, list(enumerate(arms.values())), _COLOURS[0], None)
        _points(axes, list(enumerate(floors.values(), len(arms))), _COLOURS[-1], None)
        _rows_axis(axes, names)
        _share_axis(axes, label)

    return _svg("success", draw, height=0.6 + 0.28 * len(names))


def categories_figure(summaries: Sequence[Summary], label: str) -> str:
    """Draw every category's rates, one colour for each arm."""
    names = list(dict.fromkeys(name for one in summaries for name in one.categories))
    step = 0.8 / max(1, len(summaries))

    def draw(axes: Axes) -> None:
        for index, one in enumerate(summaries):
            rows = [
                (place + index * step - 0.4 + step / 2, one.categories[name])
                for place, name in enumerate(names)
                if name in one.categories
            ]
            _points(axes, rows, _COLOURS[index % len(_COLOURS)], one.arm.name)
        _rows_axis(axes, names)
        _share_axis(axes, label)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

    return _svg("categories", draw, height=0.8 + len(names) * max(0.3, 0.11 * len(summaries)))


def differences_figure(comparisons: Sequence[Comparison]) -> str:
    """Draw each arm's difference from the first, with its interval."""
    rows = {one.second: one.whole.difference for one in comparisons}

    def draw(axes: Axes) -> None:
        _points(axes, list(enumerate(rows.values())), _COLOURS[0], None)
        _rows_axis(axes, list(rows))
        axes.axvline(0, color="#22272e", linewidth=0.8)
        axes.set_xlabel(f"{comparisons[0].metric}, difference from {comparisons[0].first}")

    return _svg("differences", draw, height=0.7 + 0.28 * len(rows))


def lengths_figure(lengths: Mapping[str, Sequence[int]]) -> str:
    """Draw the share of answers up to each length, by arm."""

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(lengths.items()):
            if values:
                axes.ecdf(values, color=_COLOURS[index % len(_COLOURS)], label=name)
        axes.set_xlabel("tokens in an answer, at most")
        axes.set_ylabel("share of answers")
        axes.set_ylim(0, 1)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

    return _svg("lengths", draw, height=2.6)


def _points(
    axes: Axes, rows: Sequence[tuple[float, Interval]], colour: str, label: str | None
) -> None:
    values = [interval.value for _, interval in rows]
    axes.errorbar(
        values,
        [place for place, _ in rows],
        xerr=[
            [max(0.0, interval.value - interval.low) for _, interval in rows],
            [max(0.0, interval.high - interval.value) for _, interval in rows],
        ],
        fmt="o",
        markersize=4,
        linewidth=1.5,
        color=colour,
        label=label,
    )


def _rows_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _share_axis(axes: Axes, label: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(label)


def _svg(name: str, draw: Callable[[Axes], None], *, height: float) -> str:
    # A salt of its own keeps one figure's ids from another's.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(8, height))
        draw(figure.add_subplot())
        target = io.StringIO()
        figure.savefig(target, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = target.getvalue()
    return text[text.index("<svg") :]
