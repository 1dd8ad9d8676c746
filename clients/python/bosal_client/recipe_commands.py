"""The subcommands of `bosal recipes`."""

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bosal_client import descriptions, errors, render
from bosal_client.client import Client
from bosal_client.connection import DEFAULT_SERVER
from bosal_client.invocation import AsJson, Server, connected, recipe_file, show

__all__ = ["app"]

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="rich",
)

_Model = Annotated[
    str, typer.Option("--model", "-m", help="Check for this model. Default: the server's.")
]
_Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML or JSON.")]


@app.callback()
def recipes(
    context: typer.Context, as_json: AsJson = False, server: Server = DEFAULT_SERVER
) -> None:
    """List the server's recipes; the subcommands show, check, compare, create and archive them.

    [bold]Examples[/bold]

      bosal recipes\n
      bosal recipes show steered > mine.yaml\n
      bosal recipes lint mine.yaml\n
      bosal recipes create mine.yaml
    """
    if context.invoked_subcommand is not None:
        return
    with connected(server) as client:
        every = client.recipes()
    show([asdict(one) for one in every]) if as_json else render.recipes(every)


@app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.")],
    versions: Annotated[
        bool, typer.Option("--versions", help="List its versions, archived ones too.")
    ] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Print a recipe as a document, or list its versions.

    [bold]Examples[/bold]

      bosal recipes show steered > mine.yaml\n
      bosal recipes show mine --versions
    """
    with connected(server) as client:
        if versions:
            every = client.recipes(versions_of=name.partition("@")[0])
            show([asdict(one) for one in every]) if as_json else render.recipe_versions(every)
            return
        found = client.recipe(name)
    show(asdict(found)) if as_json else render.recipe(found)


@app.command()
def lint(
    files: _Files,
    model: _Model = "",
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Compile recipe files for a model without keeping them; exit 1 if one is wrong.

    Says what each rule became for the model's tokenizer, how many forward passes a token takes,
    what the scaffold adds to a prompt, and what the rules cost.

    [bold]Examples[/bold]

      bosal recipes lint mine.yaml\n
      bosal recipes lint recipes/*.yaml --model small --json
    """
    outcomes = []
    with connected(server) as client:
        for file, text in [(file, _text(file)) for file in files]:
            try:
                outcome: descriptions.Validation | errors.BosalError
                outcome = client.validate(text, model=model)
            except (errors.InvalidRequest, errors.NotFound, errors.Unimplemented) as error:
                if error.field == "model":
                    raise
                outcome = error
            outcomes.append((file, outcome))
    if as_json:
        show([_linted(file, outcome) for file, outcome in outcomes])
    else:
        for file, outcome in outcomes:
            render.validation(file, outcome)
    if any(isinstance(outcome, errors.BosalError) for _, outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a file.")],
    new: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a file.")],
    server: Server = DEFAULT_SERVER,
) -> None:
    """Compare two recipes line by line; exit 1 if they differ.

    [bold]Examples[/bold]

      bosal recipes diff steered mine.yaml\n
      bosal recipes diff mine@2c1f9d30aa7be614 mine
    """
    with connected(server) as client:
        sides = [_side(client, argument) for argument in (old, new)]
    (old_label, old_lines), (new_label, new_lines) = sides
    lines = list(
        difflib.unified_diff(old_lines, new_lines, old_label, new_label, lineterm="", n=100)
    )
    render.difference(lines)
    if lines:
        raise typer.Exit(1)


@app.command()
def create(
    files: _Files,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Keep recipes on the server, each in force under its name; doing it again changes nothing.

    A file without a `name` takes the file's.

    [bold]Examples[/bold]

      bosal recipes create mine.yaml\n
      bosal recipes show mine --versions
    """
    created = []
    with connected(server) as client:
        for file, text in [(file, _text(file)) for file in files]:
            document = dict(client.validate(text).document)
            document.setdefault("name", Path(file).stem)
            created.append(client.create_recipe(document))
    show([asdict(one) for one in created]) if as_json else render.recipe_versions(created)


@app.command()
def archive(
    name: Annotated[
        str, typer.Argument(help="NAME for all its versions, NAME@VERSION for one of them.")
    ],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Take a created recipe out of service. Creating it again brings it back.

    [bold]Examples[/bold]

      bosal recipes archive mine\n
      bosal recipes archive mine@2c1f9d30aa7be614
    """
    with connected(server) as client:
        gone = client.archive_recipe(name)
    show([asdict(one) for one in gone]) if as_json else render.recipe_versions(gone)


def _text(file: str) -> str:
    """Read a file that must be one, whatever it is called."""
    text = recipe_file(file if "/" in file else f"./{file}")
    assert text is not None
    return text


def _side(client: Client, argument: str) -> tuple[str, list[str]]:
    """Label and lines of one side of a comparison."""
    text = recipe_file(argument)
    if text is None:
        found = client.recipe(argument)
        return f"{found.name}@{found.version}", render.recipe_lines(found.document)
    read = client.validate(text)
    return f"{argument} ({read.version})", render.recipe_lines(read.document)


def _linted(file: str, outcome: descriptions.Validation | errors.BosalError) -> dict[str, object]:
    if isinstance(outcome, descriptions.Validation):
        return {"file": file, "is_valid": True, **asdict(outcome)}
    return {
        "file": file,
        "is_valid": False,
        "field": outcome.field,
        "reason": outcome.reason,
        "message": str(outcome),
    }
