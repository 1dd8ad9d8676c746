"""The command `bosal eval`: run, report, compare, plan, headline.

Every command imports what it needs when it runs: `bosal` reads this file at each start.
"""

import asyncio
import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from bosal_client.connection import DEFAULT_SERVER
from bosal_client.identity import Identity
from bosal_lab.eval_console import reporting, show, summarise
from bosal_lab.headline_command import headline

if TYPE_CHECKING:
    from bosal_lab.item import Split

__all__ = ["app"]

app = typer.Typer(
    help="""Measure recipes on suites of instructions, against any server.

Exit codes: 0 done, or no arm is worse; 1 an arm is worse; 2 a wrong command line, file or arm;
69 the server is gone, 70 it failed, 75 it is full, 77 it wants another API key; 130 interrupted.
What was answered is kept: the same command goes on. BOSAL_API_KEY and BOSAL_TLS_CA are read as
by `bosal generate`.""",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Part(StrEnum):
    """Which items of a suite."""

    DEV = "dev"
    TEST = "test"
    ALL = "all"


def _split(part: Part) -> "Split | None":
    match part:
        case Part.DEV:
            return "dev"
        case Part.TEST:
            return "test"
        case Part.ALL:
            return None


Server = Annotated[
    str, typer.Option("--server", "-s", envvar="BOSAL_SERVER", help="Address of the server.")
]
File = Annotated[Path, typer.Argument(help="A results database.")]
Metric = Annotated[str, typer.Option(help="What counts: success, followed, right, tokens, …")]
SplitOption = Annotated[Part, typer.Option("--split", help="Items to count.")]
Alpha = Annotated[float, typer.Option(min=0.0001, max=0.5, help="Chance of a false alarm.")]


@app.command()
def run(
    out: Annotated[Path, typer.Option("--out", "-o", help="Results database; made if need be.")],
    suite: Annotated[str, typer.Option(help="`lab`, or `ifeval:FILE`.")] = "",
    prompts: Annotated[
        Path | None, typer.Option(help="Items of your own: one JSON object a line.")
    ] = None,
    scorer: Annotated[str, typer.Option(help="MODULE:NAME, judges the items of --prompts.")] = "",
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="A served model; may be repeated.")
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", help="NAME, NAME@VERSION or a file; may be repeated."),
    ] = None,
    split: Annotated[Part, typer.Option(help="Items to ask.")] = Part.ALL,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each item.")] = 1,
    seed: Annotated[int, typer.Option(help="Where every request's seed comes from.")] = 0,
    coupled: Annotated[
        bool, typer.Option("--coupled/--independent", help="Share noise between arms.")
    ] = True,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer. Default: the recipe's.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds an answer may take.")] = 300.0,
    ranks: Annotated[
        bool, typer.Option("--ranks/--no-ranks", help="Record each token's rank, unsteered.")
    ] = True,
    retry_errors: Annotated[bool, typer.Option(help="Ask again what ended in an error.")] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Ask every item under every model and recipe, and score the answers.

    What is answered is not asked again: run it once more to go on after a crash.

    [bold]Examples[/bold]

      bosal eval run --suite lab --recipe plain --recipe steered -o lab.sqlite\n
      bosal eval run --prompts mine.jsonl -m base -r plain -r mine.yaml --samples 4 -o mine.sqlite
    """
    with reporting(server):
        from bosal_lab.evaluate import Settings
        from bosal_lab.evaluation_run import Request, run_evaluation
        from bosal_lab.prompts import read_prompts
        from bosal_lab.recipe_files import read_recipe
        from bosal_lab.suites import load_scorer, load_suite

        if bool(suite) == (prompts is not None):
            raise typer.BadParameter("give either --suite or --prompts")
        if scorer and prompts is None:
            raise typer.BadParameter("a suite has its own scorer", param_hint="--scorer")
        if prompts is not None:
            asked = read_prompts(prompts, load_scorer(scorer) if scorer else None)
        else:
            asked = load_suite(suite)
        request = Request(
            arms=tuple(
                (model, read_recipe(name))
                for model in models or [""]
                for name in recipes or ["plain", "steered"]
            ),
            seed=seed,
            is_coupled=coupled,
            max_tokens=max_tokens,
            settings=Settings(
                split=_split(split),
                samples=samples,
                window=window,
                timeout=timeout,
                has_ranks=ranks,
                retries_errors=retry_errors,
            ),
        )
        command = shlex.join(["bosal", *sys.argv[1:]])
        identity = Identity.from_environment(os.environ)
        asyncio.run(run_evaluation(server, out, asked, request, command, identity))
        summarise(out, "success", _split(split))
        Console(stderr=True, soft_wrap=True).print(
            Text(f"bosal eval report {shlex.quote(str(out))} --html page.html", "dim")
        )


@app.command()
def report(
    file: File,
    page_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page of its own, with plots.")
    ] = None,
    metric: Metric = "success",
    split: SplitOption = Part.ALL,
    control: Annotated[
        str | None, typer.Option(help="MODEL/RECIPE the others are compared with on the page.")
    ] = None,
) -> None:
    """Show what every arm achieved, beside the floors.

    [bold]Examples[/bold]

      bosal eval report lab.sqlite --split test\n
      bosal eval report lab.sqlite --html lab.html --control base/plain
    """
    with reporting():
        summarise(file, metric, _split(split))
        if page_file is not None:
            from bosal_lab.page import page
            from bosal_lab.results import Results

            with Results.open(file) as results:
                text = page(results, metric=metric, split=_split(split), control=control)
            page_file.write_text(text, encoding="utf-8")


@app.command()
def compare(
    file: File,
    first: Annotated[str, typer.Argument(help="MODEL/RECIPE the others are held against.")],
    others: Annotated[list[str], typer.Argument(help="One MODEL/RECIPE or several.")],
    metric: Metric = "success",
    split: SplitOption = Part.ALL,
    alpha: Alpha = 0.05,
    margin: Annotated[
        float | None,
        typer.Option(min=0, help="Fail unless an arm is shown to lose less than this."),
    ] = None,
    lower_is_better: Annotated[bool, typer.Option(help="As for seconds.")] = False,
) -> None:
    """Compare arms on the same items; exit 1 if one is worse than the first.

    Without --margin an arm is worse if it is significantly so, by Holm's correction. With it, an
    arm fails unless its interval lies above -MARGIN.

    [bold]Examples[/bold]

      bosal eval compare lab.sqlite base/plain base/steered\n
      bosal eval compare lab.sqlite base/steered base/mine --margin 0.02
    """
    with reporting():
        from bosal_lab import tables
        from bosal_lab.compare import compare as compare_arms
        from bosal_lab.results import Results

        with Results.open(file) as results:
            found = compare_arms(
                results, first, others, metric=metric, split=_split(split), alpha=alpha
            )
        show(tables.comparisons(found))
        typer.echo()
        show(tables.pairings(found))
        worse = []
        for one in found:
            typer.echo(f"\n{one.second} against {one.first}, {one.metric}")
            show(tables.slices(one))
            if one.is_worse(alpha=alpha, margin=margin, lower_is_better=lower_is_better):
                worse.append(one.second)
        if worse:
            reason = "worse than" if margin is None else f"not shown to be within {margin:g} of"
            typer.echo(f"\n{', '.join(worse)}: {reason} {first}")
            raise typer.Exit(1)


@app.command()
def plan(
    mde: Annotated[float, typer.Option(help="The smallest difference worth finding.")],
    discordance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of items only one of the two gets right."),
    ] = None,
    deviation: Annotated[
        float | None, typer.Option(min=0, help="For means: deviation of paired differences.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option("--from", help="Measure it in this results database, …")
    ] = None,
    arms: Annotated[
        list[str] | None, typer.Option("--arm", help="… between these two arms.")
    ] = None,
    metric: Metric = "success",
    power: Annotated[float, typer.Option(min=0.5, max=0.999, help="Chance to find it.")] = 0.8,
    alpha: Alpha = 0.05,
) -> None:
    """Say how many items a paired comparison needs.

    [bold]Examples[/bold]

      bosal eval plan --mde 0.03 --discordance 0.1\n
      bosal eval plan --mde 0.03 --from lab.sqlite --arm base/plain --arm base/steered
    """
    with reporting():
        from bosal_lab.power import binary_need, mean_need, measured_spread

        if measured is not None:
            if len(arms or []) != 2:
                raise typer.BadParameter("name two arms", param_hint="--arm")
            discordance, deviation = measured_spread(measured, *(arms or []), metric=metric)
        if (discordance is None) == (deviation is None):
            raise typer.BadParameter("give one of --discordance, --deviation and --from")
        if discordance is not None:
            need = binary_need(difference=mde, discordance=discordance, alpha=alpha, power=power)
            typer.echo(f"discordance {discordance:.3f}, about {need.discordant:.0f} such items")
        elif deviation is not None:
            need = mean_need(difference=mde, deviation=deviation, alpha=alpha, power=power)
            typer.echo(f"deviation of paired differences {deviation:.3f}")
        typer.echo(f"{need.items} items find a difference of {mde:g} with power {need.power:.3f}")


app.command()(headline)
