"""The command `bosal experiments`: create, start, watch, report, promote and the rest."""

import csv
import getpass
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bosal.v1 import experiment_pb2 as pb
from bosal_client.calls import DEFAULT_SERVER
from bosal_client.experiment_page import page
from bosal_client.experiment_results import Experiment, Report
from bosal_client.experiments import Experiments
from bosal_client.invocation import AsJson, Server, connected

__all__ = ["app"]

app = typer.Typer(
    help="""Compare recipes on live traffic.

An experiment is a YAML or JSON document: variants with recipes and weights, metrics of which one
is primary. See docs/experiments.md.""",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Name = Annotated[str, typer.Argument(help="The experiment.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit.")]
Etag = Annotated[str, typer.Option(help="Refuse if it has changed since this was read.")]


@contextmanager
def _experiments(server: str) -> Iterator[Experiments]:
    with connected(server) as client:
        experiments = client.experiments
        experiments.actor = getpass.getuser()
        yield experiments


@app.command()
def create(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML or JSON.")],
    server: Server = DEFAULT_SERVER,
) -> None:
    """Keep an experiment as a draft.

    [bold]Example[/bold]

      bosal experiments create brevity.yaml
    """
    document = _read(file)
    with _experiments(server) as experiments:
        _say(experiments.create(document))


@app.command("list")
def list_(as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """List every experiment."""
    with _experiments(server) as experiments:
        every = experiments.every()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in every], indent=2, default=str))
        return
    for one in every:
        typer.echo(f"{one.name}\t{one.state}\t{_arms(one)}")


@app.command()
def start(
    name: Name, reason: Reason = "", etag: Etag = "", server: Server = DEFAULT_SERVER
) -> None:
    """Begin to enrol units, or go on after a pause."""
    with _experiments(server) as experiments:
        _say(experiments.start(name, reason=reason, etag=etag))


@app.command()
def pause(
    name: Name, reason: Reason = "", etag: Etag = "", server: Server = DEFAULT_SERVER
) -> None:
    """Serve the control to everybody for now."""
    with _experiments(server) as experiments:
        _say(experiments.pause(name, reason=reason, etag=etag))


@app.command()
def stop(name: Name, reason: Reason = "", etag: Etag = "", server: Server = DEFAULT_SERVER) -> None:
    """End an experiment; the control is served under its name."""
    with _experiments(server) as experiments:
        _say(experiments.stop(name, reason=reason, etag=etag))


@app.command()
def promote(
    name: Name,
    variant: Annotated[str, typer.Argument(help="The winner.")],
    reason: Reason = "",
    override_reason: Annotated[
        str, typer.Option("--override", help="Why, although the report warns.")
    ] = "",
    etag: Etag = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """End an experiment and serve one variant to everybody under its name."""
    with _experiments(server) as experiments:
        _say(
            experiments.promote(
                name, variant, reason=reason, override_reason=override_reason, etag=etag
            )
        )


@app.command()
def traffic(
    name: Name,
    coverage: Annotated[float, typer.Argument(min=0, max=1, help="Share of units to enrol.")],
    reason: Reason = "",
    etag: Etag = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """Enrol another share of the units; nobody changes the variant."""
    with _experiments(server) as experiments:
        _say(experiments.update_traffic(name, coverage, reason=reason, etag=etag))


@app.command()
def phase(
    name: Name,
    weights: Annotated[list[str], typer.Argument(metavar="VARIANT=SHARE...")],
    reason: Reason = "",
    etag: Etag = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """Begin a new phase: new weights, units draw anew, never pooled with what was before."""
    shares: dict[str, float] = {}
    for item in weights:
        key, _, share = item.partition("=")
        try:
            shares[key] = float(share)
        except ValueError:
            raise typer.BadParameter(f"{item!r} is not of the form VARIANT=SHARE") from None
    with _experiments(server) as experiments:
        _say(experiments.new_phase(name, shares, reason=reason, etag=etag))


@app.command()
def watch(
    name: Name,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 1.0,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Show the report as it changes, until Ctrl-C or the experiment's end.

    Looking is safe: the intervals hold however often one looks.
    """
    with (
        _experiments(server) as experiments,
        Live(console=Console(), auto_refresh=False, transient=False) as live,
    ):
        for report in experiments.watch(name, interval=interval):
            live.update(view(report), refresh=True)
            if report.experiment.state in ("stopped", "promoted"):
                return


@app.command()
def report(
    name: Name,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page of its own, with plots.")
    ] = None,
    number: Annotated[int, typer.Option("--phase", min=0, help="0: the current one.")] = 0,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Say what may be concluded, and what not.

    [bold]Example[/bold]

      bosal experiments report brevity --html brevity.html
    """
    with _experiments(server) as experiments:
        found = experiments.report(name, phase=number, with_distributions=True)
    if html_file is not None:
        html_file.write_text(page(found), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, default=str))
    else:
        Console(highlight=False).print(view(found))


@app.command()
def audit(
    name: Annotated[str, typer.Argument(help="One experiment; nothing: all.")] = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """List who changed what and why, the newest first."""
    with _experiments(server) as experiments:
        for one in experiments.audit(name):
            at = f"{one.at:%Y-%m-%d %H:%M:%S}" if one.at else ""
            said = [one.experiment, at, one.actor, one.action, one.reason, one.details]
            typer.echo("\t".join(" ".join(cell.split()) for cell in said))


@app.command()
def forget(
    unit: Annotated[str, typer.Argument(help="The unit, as requests name it.")],
    name: Annotated[str, typer.Option("--experiment", help="In this one alone.")] = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """Delete all that is known of a unit."""
    with _experiments(server) as experiments:
        removed = experiments.delete_unit(unit, name)
    typer.echo(f"deleted {removed.exposures} exposures and {removed.outcomes} outcomes")


@app.command()
def export(
    name: Name,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .csv or .parquet file; one row an exposure.")
    ],
    outcomes_out: Annotated[
        Path | None, typer.Option("--outcomes", help="Another, one row a client's outcome.")
    ] = None,
    number: Annotated[int, typer.Option("--phase", min=0, help="0: all.")] = 0,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Write what was recorded as CSV or Parquet; units are HMACs.

    [bold]Example[/bold]

      bosal experiments export brevity --out exposures.parquet --outcomes outcomes.parquet
    """
    for file in filter(None, (out, outcomes_out)):
        if file.suffix not in (".csv", ".parquet"):
            raise typer.BadParameter(f"{file}: name a .csv or a .parquet file")
    exposures: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    with _experiments(server) as experiments:
        for part in experiments.export(name, phase=number):
            exposures += map(_exposure_row, part.exposures)
            outcomes += map(_outcome_row, part.outcomes)
    _write(out, exposures)
    if outcomes_out is not None:
        _write(outcomes_out, outcomes)
    typer.echo(f"{len(exposures)} exposures, {len(outcomes)} outcomes")


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
    lines = [Text(f"! {one}", "yellow") for one in found.warnings]
    return Group(head, shares, effects, Text(found.conclusion, "bold"), *lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(*header: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name)
    return table


def _say(experiment: Experiment) -> None:
    said = f"{experiment.name}\t{experiment.state}\tetag {experiment.etag}\t{_arms(experiment)}"
    typer.echo(said + (f"\t{experiment.state_reason}" if experiment.state_reason else ""))


def _arms(experiment: Experiment) -> str:
    return ", ".join(
        f"{one.key} {one.recipe or 'inline'}@{one.recipe_version} {one.weight_ppm / 1e6:.0%}"
        for one in experiment.variants
    )


def _read(file: Path) -> Mapping[str, Any]:
    text = file.read_text(encoding="utf-8")
    document = _json(file, text) if file.suffix == ".json" else _yaml(file, text)
    if not isinstance(document, Mapping):
        raise typer.BadParameter(f"{file}: not a mapping of names to values")
    return document


def _json(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{file}: {error}") from None


def _yaml(file: Path, text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise typer.BadParameter(
            "reading YAML needs pyyaml (pip install pyyaml); a .json file does not"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{file}: {error}") from None


def _exposure_row(record: pb.ExposureRecord) -> dict[str, Any]:
    return {
        "exposure_id": record.exposure_id,
        "phase": record.phase,
        "unit": record.unit,
        "variant": record.variant,
        "is_forced": record.reason == pb.ASSIGNMENT_REASON_FORCED,
        "recipe_version": record.recipe_version,
        "model_digest": record.model_digest,
        "seed": record.seed,
        "instruction_tokens": record.instruction_tokens,
        "at": record.at.ToJsonString(),
        "finish_reason": record.finish_reason,
        **{f"outcome.{name}": value for name, value in sorted(record.outcomes.items())},
    }


def _outcome_row(record: pb.OutcomeRecord) -> dict[str, Any]:
    return {
        "exposure_id": record.exposure_id,
        "phase": record.phase,
        "unit": record.unit,
        "name": record.name,
        "value": record.value,
        "at": record.at.ToJsonString(),
        "is_orphan": record.is_orphan,
    }


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, names)
            writer.writeheader()
            writer.writerows(rows)
        return
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        sys.stderr.write("error: Parquet needs pyarrow: pip install 'bosal[parquet]'\n")
        raise typer.Exit(1) from None
    columns = {name: [row.get(name) for row in rows] for name in names}
    parquet.write_table(pyarrow.table(columns), file)
