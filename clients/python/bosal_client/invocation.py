"""What every command of `bosal` shares: options, standard input, a client, exit codes."""

import getpass
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from bosal_client import errors, render
from bosal_client.client import Client
from bosal_client.document_file import read_text
from bosal_client.experiments import Experiments
from bosal_client.identity import Identity

__all__ = [
    "AsJson",
    "EXIT_CODES",
    "Assignments",
    "MaxTokens",
    "Model",
    "Prompt",
    "Recipe",
    "RetrySeconds",
    "Seed",
    "Server",
    "Timeout",
    "connected",
    "given_recipe",
    "overrides",
    "prompt_text",
    "recipe_file",
    "show",
    "signed_experiments",
]

Prompt = Annotated[
    str | None, typer.Argument(help="What to ask; '-' or nothing reads standard input.")
]
Recipe = Annotated[
    str, typer.Option("--recipe", "-r", help="NAME, NAME@VERSION or a file. Default: the server's.")
]
Model = Annotated[str, typer.Option("--model", "-m", help="A served model. Default: the server's.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="RULE.PARAM=VALUE",
        help="Override a rule's parameter; may be repeated. VALUE is JSON or text.",
    ),
]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="Longest answer, in tokens.")]
Seed = Annotated[int | None, typer.Option(help="Makes the answer repeatable.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Give up after this many seconds.")]
RetrySeconds = Annotated[
    float,
    typer.Option(
        min=0,
        show_default=False,
        help="When the server is full or the key's quota is used up, try again when the server "
        "says so, for this many seconds at most. Default: fail at once (75).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Server = Annotated[
    str, typer.Option("--server", "-s", envvar="BOSAL_SERVER", help="Address of the server.")
]

EXIT_CODES: dict[type[errors.BosalError], int] = {
    errors.InvalidRequest: 2,
    errors.NotFound: 2,
    errors.Unimplemented: 2,
    errors.Unavailable: 69,
    errors.Unauthenticated: 77,
    errors.PermissionDenied: 77,
    errors.InternalError: 70,
    errors.Overloaded: 75,
    errors.DeadlineExceeded: 124,
    errors.Cancelled: 130,
}

_RECIPE_SUFFIXES = (".yaml", ".yml", ".json")


@contextmanager
def connected(server: str, *, retry_seconds: float = 0.0) -> Iterator[Client]:
    """Open a client; a failure becomes one line on standard error and an exit code."""
    try:
        identity = Identity.from_environment(os.environ)
        with Client(server, retry_seconds=retry_seconds, **identity.options()) as client:
            yield client
    except errors.BosalError as error:
        render.error(error, server)
        raise typer.Exit(EXIT_CODES.get(type(error), 1)) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CODES[errors.Cancelled]) from None


@contextmanager
def signed_experiments(server: str) -> Iterator[Experiments]:
    """Yield the calls about experiments; changes are signed with the user's name."""
    with connected(server) as client:
        experiments = client.experiments
        experiments.actor = _user()
        yield experiments


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return f"uid {os.getuid()}"


def recipe_file(argument: str) -> str | None:
    """Read the recipe file an argument names; None if it is the name of a recipe.

    What holds a slash or ends like a recipe file is taken for a file.
    """
    if "/" not in argument and not argument.endswith(_RECIPE_SUFFIXES):
        return None
    return read_text(Path(argument))


def given_recipe(client: Client, argument: str) -> str | Mapping[str, Any]:
    """The recipe `--recipe` names, or the document of the file it names, as the server reads it."""
    text = recipe_file(argument)
    return argument if text is None else client.validate(text).document


def prompt_text(argument: str | None) -> str:
    """The instruction, from the command line or from standard input."""
    if argument not in (None, "-"):
        return argument
    if argument is None and sys.stdin.isatty():
        raise typer.BadParameter("give an instruction, or pipe one in", param_hint="PROMPT")
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"standard input is not UTF-8 (byte {error.start})", param_hint="-"
        ) from error


def overrides(assignments: Sequence[str]) -> list[dict[str, Any]]:
    """Read `rule.param=value` items; those of one rule go together."""
    rules: dict[str, dict[str, Any]] = {}
    for item in assignments:
        target, equals, value = item.partition("=")
        rule, dot, param = target.partition(".")
        if not (equals and dot and rule and param):
            raise typer.BadParameter(
                f"{item!r} is not of the form RULE.PARAM=VALUE", param_hint="--set"
            )
        rules.setdefault(rule, {"rule": rule})[param] = _value(value)
    return list(rules.values())


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def show(value: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=datetime.isoformat))
