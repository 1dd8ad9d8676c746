"""Plots of experiments as SVG: effects, their history, distributions, causes of divergences."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence

from bosal_client.experiment_effects import Effect, PairedEffect
from bosal_client.experiment_results import Distribution, EffectPoint

__all__ = ["bars", "curves", "forest", "history"]

# Paul Tol's muted scheme: told apart by colour-blind readers too.
_COLOURS = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933")
_WIDTH = 640
_LEFT, _RIGHT = 20, 20


def forest(effects: Sequence[Effect | PairedEffect], names: Sequence[str]) -> str:
    """Draw every effect with its interval around no difference."""
    known = [
        (name, one.low, one.difference, one.high)
        for name, one in zip(names, effects, strict=True)
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


def history(points: Sequence[EffectPoint]) -> str:
    """Draw how the effect and its interval came about."""
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
        _label(_WIDTH - _RIGHT, bottom + 38, f"{points[-1].units} units", "end", "quiet"),
        _label(_LEFT, bottom + 38, f"{points[0].units} units", "start", "quiet"),
    ]
    return _svg(bottom + 46, parts, "the effect and its interval as units came in")


def curves(found: Sequence[Distribution], outcome: str) -> str:
    """Draw every variant's cumulative distribution up to its 99th percentile."""
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
    return _svg(bottom + 24, parts, f"cumulative distribution of {outcome}")


def bars(counts: Mapping[str, int], total: int, title: str) -> str:
    """Draw shares of a total as bars, in the order they come."""
    parts = []
    for row, (name, count) in enumerate(counts.items()):
        y = 6 + 26 * row
        width = max(count / max(total, 1) * (_WIDTH - _LEFT - _RIGHT - 350), 1.0)
        colour = _COLOURS[row % len(_COLOURS)]
        parts.append(_label(_LEFT + 210, y + 14, name, "end"))
        parts.append(
            f'<rect x="{_LEFT + 220}" y="{y}" width="{width:.1f}" height="18" fill="{colour}"/>'
        )
        share = f"{count} ({count / max(total, 1):.0%})"
        parts.append(_label(_LEFT + 228 + width, y + 14, share, "start", "quiet"))
    return _svg(26 * len(counts) + 8, parts, title) if parts else ""


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
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} class="{kind}">{html.escape(text)}</text>'


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img"><title>{html.escape(title)}</title>'
        + "".join(parts)
        + "</svg>"
    )
