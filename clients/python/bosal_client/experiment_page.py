"""A report as one HTML file that needs nothing else: effects, shares, history, latencies."""

from collections.abc import Sequence

from bosal_client.experiment_effects import Effect
from bosal_client.experiment_markup import section, table, text
from bosal_client.experiment_pairs_page import pair_sections
from bosal_client.experiment_plots import curves, forest, history
from bosal_client.experiment_results import Distribution, MetricReport, Report

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
th { font-weight: 600; color: #56606b; } table + svg, .scroll + svg { margin-top: .75rem; }
td:last-child { white-space: normal; min-width: 12rem; }
svg { width: 100%; height: auto; max-width: 46rem; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: #22272e; }
svg .quiet { fill: #56606b; }
@media (max-width: 600px) { svg text { font-size: 20px; } body { margin: 1rem auto; }
  td:last-child { white-space: nowrap; } }
"""
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
        f"<h1>{text(experiment.name)}</h1><p class=quiet>{text(head)}</p>",
        f"<p>{text(experiment.description)}</p>" if experiment.description else "",
        f"<p class=verdict>{text(report.conclusion)}</p>",
        *(f"<p class=warning>{text(one)}</p>" for one in report.warnings),
        section("Shares", _shares(report)),
        *(section(_title(one), _metric(one)) for one in report.metrics),
        section("The primary metric over time", history(report.history)),
        *pair_sections(report),
        *_latencies(report),
        section("Variants", _variants(report)),
    ]
    title = text(f"Experiment {experiment.name}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


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
    return table(header, rows) + f"<p class=quiet>{text(note)}</p>"


def _title(report: MetricReport) -> str:
    metric = report.metric
    better = "more" if metric.direction == "increase" else "less"
    return f"{metric.name} ({metric.role}, {metric.kind}; {better} is better)"


def _metric(report: MetricReport) -> str:
    values = table(
        ("variant", "value", "units"),
        [
            (arm.variant, "" if arm.value is None else f"{arm.value:.5g}", str(arm.count))
            for arm in report.arms
        ],
    )
    effects = table(
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
    return values + forest(report.effects, [one.variant for one in report.effects]) + effects


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}"


def _interval(effect: Effect) -> str:
    if effect.low is None or effect.high is None:
        return ""
    return f"{effect.low:+.4g} to {effect.high:+.4g}"


def _latencies(report: Report) -> list[str]:
    found = []
    for outcome, title in _LATENCIES.items():
        some = [one for one in report.distributions if one.outcome == outcome]
        if some:
            found.append(section(title, curves(some, outcome) + _quantiles(some)))
    return found


def _quantiles(found: Sequence[Distribution]) -> str:
    rows = [
        (one.variant, str(one.count), *(f"{one.percentiles[p]:.4g}" for p in (50, 95, 99)))
        for one in found
    ]
    return table(("variant", "requests", "median", "95 %", "99 %"), rows)


def _variants(report: Report) -> str:
    weights = report.experiment.weights(report.phase)
    return table(
        ("variant", "recipe", "version", "weight", ""),
        [
            (
                one.key,
                one.recipe or "its own",
                one.recipe_version,
                f"{weights[one.key] / 1e6:.2%}" if one.key in weights else "",
                "control" if one.is_control else "" if one.key in weights else "shadow",
            )
            for one in (*report.experiment.variants, *report.experiment.shadows)
        ],
    )
