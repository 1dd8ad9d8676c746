"""The command `bosal experiments`: create, start, watch, report, promote and the rest."""

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from bosal_client.connection import DEFAULT_SERVER
from bosal_client.document_file import read_document, writing
from bosal_client.experiment_export import export
from bosal_client.experiment_page import page
from bosal_client.experiment_results import Experiment
from bosal_client.experiment_view import view
from bosal_client.invocation import AsJson, Server, signed_experiments

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


@app.command()
def create(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML or JSON.")],
    server: Server = DEFAULT_SERVER,
) -> None:
    """Keep an experiment as a draft.

    [bold]Example[/bold]

      bosal experiments create brevity.yaml
    """
    document = read_document(file)
    with signed_experiments(server) as experiments:
        _say(experiments.create(document))


@app.command("list")
def list_(as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """List every experiment."""
    with signed_experiments(server) as experiments:
        every = experiments.every()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in every], indent=2, default=str))
        return
    for one in every:
        typer.echo(f"{one.name}\t{one.state}\t{_arms(one)}")


@app.command()
def start(
    name: Name,
    acknowledged: Annotated[
        list[str] | None,
        typer.Option(
            "--acknowledge",
            metavar="GUARDRAIL",
            help="Go on although it is broken: it pauses this phase no more. May be repeated.",
        ),
    ] = None,
    reason: Reason = "",
    etag: Etag = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """Begin to enrol units, or go on after a pause."""
    with signed_experiments(server) as experiments:
        _say(
            experiments.start(
                name, acknowledged_guardrails=acknowledged or (), reason=reason, etag=etag
            )
        )


@app.command()
def pause(
    name: Name, reason: Reason = "", etag: Etag = "", server: Server = DEFAULT_SERVER
) -> None:
    """Serve the control to everybody for now."""
    with signed_experiments(server) as experiments:
        _say(experiments.pause(name, reason=reason, etag=etag))


@app.command()
def stop(name: Name, reason: Reason = "", etag: Etag = "", server: Server = DEFAULT_SERVER) -> None:
    """End an experiment; the control is served under its name."""
    with signed_experiments(server) as experiments:
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
    with signed_experiments(server) as experiments:
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
    with signed_experiments(server) as experiments:
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
    with signed_experiments(server) as experiments:
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
    console = Console()
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with signed_experiments(server) as experiments, live or nullcontext():
        for report in experiments.watch(name, interval=interval):
            if live is None:
                # One below another, for whoever reads a file.
                console.print(view(report), "")
            else:
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
    with signed_experiments(server) as experiments:
        found = experiments.report(name, phase=number, with_distributions=True)
    if html_file is not None:
        with writing(html_file, "--html"):
            html_file.write_text(page(found), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, default=str))
    else:
        Console(highlight=False).print(view(found))


@app.command()
def plan(
    name: Annotated[str, typer.Argument(help="Take what is not given from this experiment.")] = "",
    *,
    effect: Annotated[float, typer.Option(help="The smallest difference that matters.")],
    rate: Annotated[
        float | None, typer.Option(help="Of a proportion: the control's share, from 0 to 1.")
    ] = None,
    deviation: Annotated[
        float | None, typer.Option(help="Of other metrics: the standard deviation over units.")
    ] = None,
    method: Annotated[str, typer.Option(help="sequential or fixed. Default: sequential.")] = "",
    alpha: Annotated[
        float | None, typer.Option(help="Chance of a false alarm. Default: 0.05.")
    ] = None,
    power: Annotated[float | None, typer.Option(help="Chance to find it. Default: 0.8.")] = None,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Say how many units an effect needs to be shown.

    [bold]Example[/bold]

      bosal experiments plan --effect 0.05 --rate 0.3
      bosal experiments plan brevity --effect 0.02
    """
    if method and method not in ("sequential", "fixed"):
        raise typer.BadParameter(f"{method!r}: sequential or fixed", param_hint="--method")
    with signed_experiments(server) as experiments:
        found = experiments.plan(
            name, effect=effect, rate=rate, deviation=deviation, method=method,
            alpha=alpha, power=power,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    typer.echo(
        f"{found.units} units, half in each of two variants: {found.method} analysis, effect "
        f"{found.effect:g}, deviation {found.deviation:.4g}, alpha {found.alpha:g}, "
        f"power {found.power:g}"
    )


@app.command()
def audit(
    name: Annotated[str, typer.Argument(help="One experiment; nothing: all.")] = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """List who changed what and why, the newest first."""
    with signed_experiments(server) as experiments:
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
    with signed_experiments(server) as experiments:
        removed = experiments.delete_unit(unit, name)
    typer.echo(f"deleted {removed.exposures} exposures and {removed.outcomes} outcomes")


app.command()(export)


def _say(experiment: Experiment) -> None:
    said = f"{experiment.name}\t{experiment.state}\tetag {experiment.etag}\t{_arms(experiment)}"
    if experiment.coverage_ppm != 1e6:
        said += f"\tfor {experiment.coverage_ppm / 1e6:.6g} of the units"
    typer.echo(said + (f"\t{experiment.state_reason}" if experiment.state_reason else ""))


def _arms(experiment: Experiment) -> str:
    weights = experiment.weights()
    return ", ".join(
        f"{one.key} {one.recipe or 'inline'}@{one.recipe_version} {weights[one.key] / 1e6:.0%}"
        for one in experiment.variants
    )
