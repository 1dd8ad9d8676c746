"""The command `bosal`: what a client can ask, plus the commands other installed parts add."""

import signal
from dataclasses import asdict
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

import typer

from bosal_client import experiment_commands, recipe_commands, render, replay
from bosal_client.command_help import flow, flowing
from bosal_client.compare_command import compare
from bosal_client.connection import DEFAULT_SERVER
from bosal_client.explain_command import explain
from bosal_client.extras import missing
from bosal_client.generate_command import generate
from bosal_client.invocation import AsJson, RetrySeconds, Server, Timeout, connected, show
from bosal_client.rules_command import rules
from bosal_client.score_command import score

__all__ = ["application", "main"]

_HELP = """Base models that follow instructions, by rules over their decoding.

Exit codes: 0 done, 1 failed or a replay differed, 2 a wrong request or command line,
69 no server answers, 70 the server failed, 75 the server is full, 77 the API key is missing, wrong
or not for this, 124 timeout, 130 interrupted, 141 its output is not read to the end.

BOSAL_API_KEY is sent with every call. BOSAL_TLS_CA turns TLS on: a file of authorities in PEM, or
`system` for this machine's. BOSAL_CLIENT_CERTIFICATE and BOSAL_CLIENT_KEY identify the client.

[bold]Examples[/bold]

  bosal serve\n
  bosal generate "Name three rivers."\n
  bosal recipes
"""


def models(as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """List the models the server serves.

    [bold]Examples[/bold]

      bosal models\n
      bosal models --server 10.0.0.7:50051
    """
    with connected(server) as client:
        every = client.models()
    show([asdict(one) for one in every]) if as_json else render.models(every)


def replay_record(
    record: Annotated[
        typer.FileBinaryRead,
        typer.Argument(
            metavar="FILE", help="What `bosal generate --json` wrote; '-' for standard input."
        ),
    ],
    timeout: Timeout = None,
    retry_seconds: RetrySeconds = 0.0,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Issue a recorded request again and compare the tokens; exit 1 if they differ.

    [bold]Examples[/bold]

      bosal generate "Name a river." --json > record.json\n
      bosal replay record.json
    """
    try:
        recorded = replay.Record.parse(record.read())
    except replay.InvalidRecord as error:
        raise typer.BadParameter(str(error), param_hint="RECORD") from error
    with connected(server, retry_seconds=retry_seconds) as client:
        replayed = recorded.replay(client, timeout=timeout)
    for change in replayed.changes():
        render.warning(change)
    difference = replayed.difference()
    if difference is None:
        count = sum(len(ids) for ids in recorded.token_ids)
        typer.echo(f"equal: {count} tokens in {len(recorded.token_ids)} choices")
        return
    before, now = (
        "the end" if token is None else f"token {token}"
        for token in (difference.recorded, difference.replayed)
    )
    typer.echo(
        f"different: choice {difference.choice}, position {difference.position}: "
        f"was {before}, is {now}"
    )
    raise typer.Exit(1)


def application() -> typer.Typer:
    """Put the command together; parts that are installed add theirs."""
    app = typer.Typer(
        help=flowing(_HELP),
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_every)
    for command in (generate, explain, compare, score, rules, models):
        app.command()(command)
    app.command("replay")(replay_record)
    app.add_typer(experiment_commands.app, name="experiments")
    app.add_typer(recipe_commands.app, name="recipes")
    for entry in sorted(entry_points(group="bosal.commands"), key=lambda entry: entry.name):
        _add(app, entry)
    flow(app)
    return app


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"bosal {version('bosal')}")
        raise typer.Exit


def _every(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    """Take what comes before any command."""


def main() -> None:
    """Run the command line."""
    try:
        application()()
    except KeyboardInterrupt:
        # While the commands of other parts are imported.
        raise SystemExit(130) from None
    except SystemExit as ended:
        # That nobody reads on is told as a failure by typer and by rich.
        if isinstance(ended.__context__, BrokenPipeError):
            _end_unread()
        raise


def _end_unread() -> None:
    """End as the system ends who writes to a closed pipe; a shell calls that 141."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.raise_signal(signal.SIGPIPE)


def _add(app: typer.Typer, entry: EntryPoint) -> None:
    """Add another part's command; one that cannot be imported says what to install."""
    try:
        command = entry.load()
    except ImportError as error:
        extra = entry.module.split(".")[0].removeprefix("bosal_")
        message = missing(f"`bosal {entry.name}`", extra, error)

        # Whatever it is asked for: its options are not known.
        anything = {"ignore_unknown_options": True, "allow_extra_args": True}

        needs = f"Needs more packages: pip install 'bosal\\[{extra}]'."

        @app.command(entry.name, help=needs, context_settings=anything)
        def unavailable() -> None:
            render.error(RuntimeError(message))
            raise typer.Exit(1)

        return
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=entry.name)
    else:
        app.command(entry.name)(command)
