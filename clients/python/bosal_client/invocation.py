"""What every command of `bosal` shares: options, standard input, a client, exit codes."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from bosal_client import errors, render
from bosal_client.client import Client
from bosal_client.identity import Identity

__all__ = [
    "AsJson",
    "Assignments",
    "MaxTokens",
    "Model",
    "Prompt",
    "Recipe",
    "Seed",
    "Server",
    "Timeout",
    "connected",
    "overrides",
    "prompt_text",
    "show",
]

Prompt = Annotated[
    str | None, typer.Argument(help="What to ask; '-' or nothing reads standard input.")
]
Recipe = Annotated[
    str, typer.Option("--recipe", "-r", help="NAME or NAME@VERSION. Default: the server's.")
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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Server = Annotated[
    str, typer.Option("--server", "-s", envvar="BOSAL_SERVER", help="Address of the server.")
]

_EXIT_CODES: dict[type[errors.BosalError], int] = {
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


@contextmanager
def connected(server: str) -> Iterator[Client]:
    """Open a client; a failure becomes one line on standard error and an exit code."""
    try:
        identity = Identity.from_environment(os.environ)
        with Client(server, credentials=identity.credentials(), api_key=identity.api_key) as client:
            yield client
    except errors.BosalError as error:
        render.error(error, server)
        raise typer.Exit(_EXIT_CODES.get(type(error), 1)) from None
    except KeyboardInterrupt:
        raise typer.Exit(_EXIT_CODES[errors.Cancelled]) from None


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
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
