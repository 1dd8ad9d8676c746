"""Reports laid out for a terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bosal_client.experiment_effects import CAUSES, DivergenceReport
from bosal_client.experiment_results import Report
from bosal_client.spelled import quoted

__all__ = ["view"]


def view(found: Report) -> RenderableType:
    """Lay a report out for a terminal."""
    experiment = found.experiment
    head = Text(f"{experiment.name}: {experiment.state}, phase {found.phase}", "bold")
    if experiment.state_reason:
        head.append(f"  {experiment.state_reason}", "default")
    shares = _table("variant", "units", "share", "given", "requests", "failed")
    for arm in found.arms:
        shares.add_row(
            arm.variant, str(arm.units), f"{arm.share:.1%}", f"{arm.expected_share:.1%}",
            str(arm.requests), str(arm.failed),
        )  # fmt: skip
    effects = _table("metric", "variant", "control", "variant's", "difference", "p", "")
    for one in found.metrics:
        values = {arm.variant: arm.value for arm in one.arms}
        control = next(v.key for v in experiment.variants if v.is_control)
        for effect in one.effects:
            interval = ""
            if effect.difference is not None:
                interval = f"{effect.difference:+.4g}"
            if effect.low is not None and effect.high is not None:
                interval += f" [{effect.low:+.4g}, {effect.high:+.4g}]"
            effects.add_row(
                f"{one.metric.name} ({one.metric.role})",
                effect.variant,
                _number(values[control]),
                _number(values[effect.variant]),
                interval,
                "" if effect.low is None else f"{effect.adjusted_p:.3g}",
                effect.verdict,
            )
    pairs = [Text(line) for one in found.divergences for line in _parted(one)]
    pairs += [
        Text(
            f"{one.variant} touches {one.touched} of {one.requests} requests; the others are the "
            "same under the control"
        )
        for one in found.doses
    ]
    shadows = _table("shadow", "outcome", "control", "shadow's", "difference", "p", "units", "")
    for shadow in found.shadows:
        for paired in shadow.effects:
            interval = f"{paired.difference:+.4g}"
            if paired.low is not None and paired.high is not None:
                interval += f" [{paired.low:+.4g}, {paired.high:+.4g}]"
            shadows.add_row(
                shadow.variant, paired.outcome, _number(paired.control), _number(paired.variant),
                interval, "" if paired.low is None else f"{paired.p_value:.3g}", str(paired.units),
                paired.open_because(experiment.min_units),
            )  # fmt: skip
    tables = [shares, effects] if effects.rows else [shares]
    if shadows.rows:
        tables.append(shadows)
    lines = [Text(f"! {one}", "yellow") for one in found.warnings]
    return Group(head, *tables, *pairs, Text(found.conclusion, "bold"), *lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(*header: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name)
    return table


# As many requests as are shown where they part; the page shows more.
_EXAMPLES = 3


def _parted(one: DivergenceReport) -> list[str]:
    said = f"{one.variant}: {one.equal} of {one.requests} requests have the control's text"
    if one.mean_position is not None:
        said += (
            f"; {one.requests - one.equal} part from it, after {one.mean_position:.1f} tokens on "
            "average"
        )
    if one.causes:
        causes = [f"{count} for {CAUSES.get(name, name)}" for name, count in one.causes.items()]
        said += f": {', '.join(causes)}"
    if one.rules:
        rules = [f"{name} in {count}" for name, count in one.rules.items()]
        said += f"; a rule alone decides it: {', '.join(rules)}"
    if one.unknown:
        said += f"; {one.unknown} could not be held against it"
    lines = [said]
    for example in one.examples[:_EXAMPLES]:
        by = f" ({', '.join(example.rules)})" if example.rules else ""
        tokens = f"{quoted(example.control_token)} became {quoted(example.token)}"
        lines.append(f"  token {example.position}: {tokens}{by}")
    return lines
