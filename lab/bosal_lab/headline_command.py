"""The command `bosal eval headline`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bosal_lab.eval_console import reporting, summarise

__all__ = ["headline"]


def headline(
    server: Annotated[
        str,
        typer.Option("--server", "-s", help="Serves the five models. Default: one of our own."),
    ] = "",
    models: Annotated[
        Path | None,
        typer.Option(help="Folder that holds the five models. Default: the shipped ones."),
    ] = None,
    file: Annotated[
        Path, typer.Option("--results", help="Results database; goes on where it was left.")
    ] = Path("lab/.cache/headline.sqlite"),
    out: Annotated[Path, typer.Option("--out", "-o", help="The table as JSON.")] = Path(
        "lab/results/headline.json"
    ),
    readme: Annotated[
        Path | None, typer.Option(help="Markdown page whose marked lines get the table.")
    ] = None,
    page_file: Annotated[
        Path | None, typer.Option("--html", help="The page with plots and typical misses.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this row, as MODEL/RECIPE; repeatable. Default: all."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each item.")] = 1,
    seed: Annotated[int, typer.Option(help="Where every request's seed comes from.")] = 0,
    window: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 16,
) -> None:
    """Measure the headline table: the base model under rules beside its tuned twin.

    [bold]Examples[/bold]

      bosal eval headline --readme README.md\n
      bosal eval headline --models lab/.cache/build --only base/plain --only tuned/plain-greedy

          --results second.sqlite --out second.json
    """
    with reporting(server):
        from bosal_lab.evaluate import Settings
        from bosal_lab.headline import dump, measure, models_of, write_table
        from bosal_lab.headline import headline as table
        from bosal_lab.page import page
        from bosal_lab.results import Results
        from bosal_lab.suites import load_suite

        names = only or []
        command = shlex.join(["bosal", *sys.argv[1:]])
        measure(
            load_suite("lab"),
            file,
            server=server,
            models=(
                {name: _model(name, models) for name in models_of(names)}
                if models is not None or not server
                else {}
            ),
            settings=Settings(split="test", samples=samples, window=window),
            seed=seed,
            command=command,
            only=names,
        )
        with Results.open(file) as results:
            document = table(results, [command])
            if page_file is not None:
                page_file.write_text(page(results, split="test"), encoding="utf-8")
        dump(document, out)
        if readme is not None:
            write_table(document, readme)
        summarise(file, "success", "test")


def _model(name: str, folder: Path | None) -> Path:
    if folder is not None:
        return folder / name
    import bosal_models
    from bosal_lab.evaluation_errors import ArmError

    try:
        return bosal_models.path(name)
    except bosal_models.UnknownModelError as error:
        raise ArmError(str(error)) from error
