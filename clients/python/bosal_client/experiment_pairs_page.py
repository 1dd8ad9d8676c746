"""The sections of a report about requests held against other variants."""

from bosal_client.experiment_effects import (
    CAUSES,
    DivergenceReport,
    DoseReport,
    ShadowReport,
)
from bosal_client.experiment_markup import section, table, text
from bosal_client.experiment_plots import bars, forest
from bosal_client.experiment_results import Report

__all__ = ["pair_sections"]


def pair_sections(report: Report) -> list[str]:
    """Return what there is: doses, shadows, divergences."""
    found = []
    if report.doses:
        found.append(
            section(
                "Dose: what variants touch",
                "".join(_dose(one, report.experiment.min_units) for one in report.doses),
            )
        )
    for shadow in report.shadows:
        title = f"Shadow {shadow.variant}: the control's requests run again"
        found.append(section(title, _shadow(shadow, report.experiment.min_units)))
    for divergence in report.divergences:
        found.append(section(f"Where {divergence.variant} parts", _divergence(divergence)))
    return found


def _dose(one: DoseReport, min_units: int) -> str:
    share = "" if one.touched_share is None else f" ({one.touched_share:.1%} of the units)"
    note = (
        f"{one.variant} changes {one.touched} of {one.requests} requests{share}; the others are "
        "the same text under the control, token by token, so there it has no effect."
    )
    rows = []
    for name, effect in (("units touched", one.effect), ("spread over all units", one.diluted)):
        if effect is None:
            continue
        interval = f"too few units: {min(one.control_units, one.units)} of {min_units}"
        if effect.low is not None and effect.high is not None:
            interval = f"{effect.low:+.4g} to {effect.high:+.4g}"
        value = "" if effect.difference is None else f"{effect.difference:+.4g}"
        rows.append((name, value, interval, effect.method))
    units = f"{one.control_units} units of the control and {one.units} of {one.variant}"
    return (
        f"<p>{text(note)}</p>"
        + table(("primary metric", "difference", "interval", "method"), rows)
        + f"<p class=quiet>{text('Touched: ' + units)}</p>"
    )


def _shadow(one: ShadowReport, min_units: int) -> str:
    note = (
        f"{one.pairs} requests answered by both under the same noise, {one.given_up} given up; "
        "nobody was served the shadow, and programs alone have scored it."
    )
    rows = [
        (
            effect.outcome,
            f"{effect.control:.4g}",
            f"{effect.variant:.4g}",
            f"{effect.difference:+.4g}",
            effect.open_because(min_units) or f"{effect.low:+.4g} to {effect.high:+.4g}",
            "" if effect.low is None else f"{effect.p_value:.3g}",
            str(effect.units),
            "" if effect.saving is None else f"{effect.saving:.2g} times the units",
        )
        for effect in one.effects
    ]
    header = (
        "outcome",
        "control",
        "shadow",
        "difference",
        "interval",
        "p",
        "units",
        "two arms need",
    )
    plots = "".join(
        forest([effect], [effect.outcome]) for effect in one.effects if effect.low is not None
    )
    return f"<p>{text(note)}</p>" + (table(header, rows) + plots if rows else "")


def _divergence(one: DivergenceReport) -> str:
    said = f"{one.requests} requests held against the control, {one.equal} with the same text"
    if one.mean_position is not None:
        said += f"; those that part do so after {one.mean_position:.1f} tokens on average"
    if one.unknown:
        said += f"; {one.unknown} could not be held"
    causes = {CAUSES.get(name, name): count for name, count in one.causes.items()}
    rows = [
        (
            str(example.position),
            _token(example.control_token),
            _token(example.token),
            CAUSES.get(example.cause, example.cause),
            ", ".join(example.rules),
        )
        for example in one.examples
    ]
    header = ("token", "control", one.variant, "why", "rule")
    return (
        f"<p>{text(said)}.</p>"
        + bars({"the same text": one.equal, **causes}, one.requests, "causes of divergences")
        + _rules(one)
        + (table(header, rows) if rows else "")
    )


def _rules(one: DivergenceReport) -> str:
    if not one.rules:
        return ""
    title = "Rules without which the two would not have parted"
    plot = bars(one.rules, one.requests - one.equal, title)
    return f"<p class=quiet>{text(title)}</p>{plot}"


def _token(spelled: bytes) -> str:
    """Spell a token so that spaces are seen; nothing: that text had ended."""
    if not spelled:
        return "(end)"
    return (
        spelled.decode("utf-8", "backslashreplace").replace(" ", "\u2423").replace("\n", "\u23ce")
    )
