"""The flags of `bosal generate`, `explain` and `score` that hold an answer to a language."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bosal_client.document_file import read_text

__all__ = ["AllowUnsupported", "Choices", "Grammar", "PythonType", "Regex", "Schema", "document"]

Schema = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="JSON Schema the answer must satisfy."),
]
Regex = Annotated[str | None, typer.Option(help="Pattern the whole answer must match.")]
Choices = Annotated[
    list[str] | None, typer.Option(help="A text the answer may be; repeat it for each.")
]
Grammar = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="Grammar of the answer: Lark, or GBNF in *.gbnf."
    ),
]
PythonType = Annotated[str | None, typer.Option(help="A type the server has registered.")]
AllowUnsupported = Annotated[
    bool,
    typer.Option(
        "--allow-unsupported",
        help="With --schema: leave out keywords that cannot be enforced, and say which.",
    ),
]


def document(
    schema: Path | None,
    regex: str | None,
    texts: list[str] | None,
    grammar: Path | None,
    python_type: str | None,
    allow_unsupported: bool = False,
) -> dict[str, Any]:
    """Put the one constraint together that a command line may have."""
    given: dict[str, Any] = {
        "--schema": {"json_schema": read_text(schema, "--schema")} if schema else None,
        "--regex": {"regex": regex} if regex is not None else None,
        "--choice": {"choice": texts} if texts else None,
        "--grammar": {"grammar": read_text(grammar, "--grammar")} if grammar else None,
        "--python-type": {"python_type": python_type} if python_type is not None else None,
    }
    flags = [flag for flag, document in given.items() if document]
    if len(flags) > 1:
        raise typer.BadParameter("give one constraint alone", param_hint=" and ".join(flags))
    document: dict[str, Any] = given[flags[0]] if flags else {}
    if allow_unsupported:
        if not {"json_schema", "python_type"} & document.keys():
            raise typer.BadParameter("it goes with --schema", param_hint="--allow-unsupported")
        document["allow_unsupported"] = True
    if grammar is not None and grammar.suffix == ".gbnf":
        document["syntax"] = "gbnf"
    return document
