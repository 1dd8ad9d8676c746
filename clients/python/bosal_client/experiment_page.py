"""A report as one HTML file that needs nothing else: effects, shares, history, latencies."""

import html
from collections.abc import Callable, Iterable, Sequence

from bosal_client.experiment_results import Effect, MetricReport, Report

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22272e; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; } h2 { font-size: 1.15rem; margin-top: 2.25rem; }
.verdict { font-size: 1.05rem; background: #f6f8fa; padding: .75rem 1rem; border-radius: 6px; }
.warning { background: #fff4e0; padding: .5rem 1rem; border-radius: 6px; margin: .5rem 0; }
.quiet { color: #56606b; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid #e8ebee; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: #56606b; }
svg { width: 100%; height: auto; max-width: 46rem; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: #22272e; }
svg .quiet { fill: #56606b; }
@media (max-width: 600px) { svg text { font-size: 20px; } body { margin: 1rem auto; } }
"""
# Paul Tol's muted scheme: told apart by colour-blind readers too.
_COLOURS = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933")
_WIDTH = 640
_LEFT, _RIGHT = 20, 20
_LATENCIES = {
    "ttft_ms": "Time to first token, ms",
    "tpot_ms": "Time per token, ms",
    "total_ms": "Total time, ms",
}


def page(report: Report) -> str:
    """Return the whole page."""
    experiment = report.experiment
    when = report.as_of.strftime("%Y-%m-%d %H:%M UTC") if report.as_of else ""
    head = (
        f"{experiment.state}, phase {report.phase}, {when}; unit: {experiment.unit_kind}; "
        f"{experiment.method} analysis planned for {experiment.planned_units} units, "
        f"alpha {experiment.alpha:g}"
    )
    parts = [
        f"<h1>{_text(experiment.name)}</h1><p class=quiet>{_text(head)}</p>",
        f"<p>{_text(experiment.description)}</p>" if experiment.description else "",
        f"<p class=verdict>{_text(report.conclusion)}</p>",
        *(f"<p class=warning>{_text(one)}</p>" for one in report.warnings),
        _section("Shares", _shares(report)),
        *(_section(_title(one), _metric(one)) for one in report.metrics),
        _section("The primary metric over time", _history(report)),
        *_latencies(report),
        _section("Variants", _variants(report)),
    ]
    title = _text(f"Experiment {experiment.name}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _section(title: str, body: str) -> str:
    return f"<h2>{_text(title)}</h2>\n{body}" if body else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<div class=scroll><table>{row(header, 'th')}{body}</table></div>"


def _shares(report: Report) -> str:
    rows = [
        (
            one.variant,
            str(one.units),
            f"{one.share:.2%}",
            f"{one.expected_share:.2%}",
            str(one.requests),
            str(one.failed),
            str(one.mixed_units),
        )
        for one in report.arms
    ]
    check = report.shares
    said = "shares differ from those given" if check.is_alarm else "shares are as given"
    note = f"{said}: p {check.p_value:.3g} at every look, {check.chi_square_p:.3g} at this one"
    header = ("variant", "units", "share", "given", "requests", "failed", "mixed units")
    return _table(header, rows) + f"<p class=quiet>{_text(note)}</p>"


def _title(report: MetricReport) -> str:
    metric = report.metric
    better = "more" if metric.direction == "increase" else "less"
    return f"{metric.name} ({metric.role}, {metric.kind}; {better} is better)"


def _metric(report: MetricReport) -> str:
    values = _table(
        ("variant", "value", "units"),
        [
            (arm.variant, "" if arm.value is None else f"{arm.value:.5g}", str(arm.count))
            for arm in report.arms
        ],
    )
    effects = _table(
        ("against the control", "difference", "interval", "relative", "p", "", "method"),
        [
            (
                one.variant,
                _signed(one.difference),
                _interval(one),
                "" if one.relative is None else f"{one.relative:+.2%}",
                "" if one.low is None else f"{one.adjusted_p:.3g}",
                one.verdict,
                one.method,
            )
            for one in report.effects
        ],
    )
    return values + _forest(report.effects) + effects


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}"


def _interval(effect: Effect) -> str:
    if effect.low is None or effect.high is None:
        return ""
    return f"{effect.low:+.4g} to {effect.high:+.4g}"


def _forest(effects: Sequence[Effect]) -> str:
    """Draw every effect with its interval around no difference."""
    known = [
        (one.variant, one.low, one.difference, one.high)
        for one in effects
        if one.low is not None and one.high is not None and one.difference is not None
    ]
    if not known:
        return ""
    reach = max(max(abs(low), abs(high)) for _, low, _, high in known) * 1.1 or 1.0
    x = _scale(-reach, reach)
    height = 34 * len(known) + 34
    parts = [_line(x(0), 4, x(0), height - 26, "#9aa3ad", "4 3")]
    for row, (name, low, value, high) in enumerate(known):
        y, colour = 26 + 34 * row, _COLOURS[(row + 1) % len(_COLOURS)]
        parts += [
            _line(x(low), y, x(high), y, colour, width=3),
            f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="{colour}"/>',
            _label(x(value), y - 10, name, "middle"),
        ]
    for place in (-reach / 1.1, 0.0, reach / 1.1):
        parts.append(
            _label(x(place), height - 8, f"{place:+.3g}" if place else "0", "middle", "quiet")
        )
    return _svg(height, parts, "effects with their intervals")


def _history(report: Report) -> str:
    """Draw how the effect and its interval came about."""
    points = report.history
    if len({one.units for one in points}) < 2:
        return ""
    low, high = min(0.0, *(p.low for p in points)), max(0.0, *(p.high for p in points))
    bottom, top = 210, 20
    x = _scale(min(p.units for p in points), max(p.units for p in points))
    y = _vertical(low, high, top, bottom)
    parts = [_line(_LEFT, y(0), _WIDTH - _RIGHT, y(0), "#9aa3ad", "4 3")]
    for index, variant in enumerate(dict.fromkeys(p.variant for p in points)):
        colour = _COLOURS[(index + 1) % len(_COLOURS)]
        some = [p for p in points if p.variant == variant]
        edge = [(x(p.units), y(p.low)) for p in some]
        edge += [(x(p.units), y(p.high)) for p in reversed(some)]
        area = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
        parts.append(f'<polygon points="{area}" fill="{colour}" opacity=".15"/>')
        parts.append(_path([(x(p.units), y(p.difference)) for p in some], colour))
        last = some[-1]
        parts.append(_label(x(last.units), y(last.difference) - 8, variant, "end"))
    parts += [
        _label(_LEFT, top - 6, f"{high:+.3g}", "start", "quiet"),
        _label(_LEFT, bottom + 14, f"{low:+.3g}", "start", "quiet"),
        _label(_WIDTH - _RIGHT, bottom + 30, f"{points[-1].units} units", "end", "quiet"),
        _label(_LEFT, bottom + 30, f"{points[0].units} units", "start", "quiet"),
    ]
    return _svg(bottom + 38, parts, "the effect and its interval as units came in")


def _latencies(report: Report) -> list[str]:
    return [_section(title, _curves(report, outcome)) for outcome, title in _LATENCIES.items()]


def _curves(report: Report, outcome: str) -> str:
    """Draw every variant's cumulative distribution up to its 99th percentile."""
    found = [one for one in report.distributions if one.outcome == outcome]
    if not found:
        return ""
    x = _scale(0, max(one.percentiles[99] for one in found) or 1.0)
    bottom, top = 150, 16
    y = _vertical(0, 1, top, bottom)
    parts = [_line(_LEFT, y(0), _WIDTH - _RIGHT, y(0), "#9aa3ad")]
    for index, one in enumerate(found):
        curve = [(x(value), y(p / 100)) for p, value in enumerate(one.percentiles[:100])]
        colour = _COLOURS[index % len(_COLOURS)]
        parts.append(_path(curve, colour))
        parts.append(
            f'<rect x="{_LEFT}" y="{top + 18 * index}" width="10" height="10" fill="{colour}"/>'
        )
        parts.append(_label(_LEFT + 16, top + 10 + 18 * index, one.variant, "start"))
    edge = max(one.percentiles[99] for one in found)
    parts.append(_label(_WIDTH - _RIGHT, bottom + 16, f"{edge:.4g}", "end", "quiet"))
    parts.append(_label(_LEFT, bottom + 16, "0", "start", "quiet"))
    rows = [
        (one.variant, str(one.count), *(f"{one.percentiles[p]:.4g}" for p in (50, 95, 99)))
        for one in found
    ]
    table = _table(("variant", "requests", "median", "95 %", "99 %"), rows)
    return _svg(bottom + 24, parts, f"cumulative distribution of {outcome}") + table


def _variants(report: Report) -> str:
    return _table(
        ("variant", "recipe", "version", "weight", ""),
        [
            (
                one.key,
                one.recipe or "its own",
                one.recipe_version,
                f"{one.weight_ppm / 1e6:.2%}",
                "control" if one.is_control else "",
            )
            for one in report.experiment.variants
        ],
    )


def _scale(low: float, high: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: _LEFT + (value - low) / span * (_WIDTH - _LEFT - _RIGHT)


def _vertical(low: float, high: float, top: int, bottom: int) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: bottom - (value - low) / span * (bottom - top)


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "", width: int = 1
) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-dasharray="{dash}"/>'
    )


def _path(points: Sequence[tuple[float, float]], colour: str) -> str:
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _label(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{_text(text)}</text>'
    )


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img"><title>{_text(title)}</title>'
        + "".join(parts)
        + "</svg>"
    )
