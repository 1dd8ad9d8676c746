"""The subcommands `serve`, `demo` and `config`. Light: what they need is imported when they run."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bosal_client import extras, render
from bosal_server import show_config
from bosal_server.config import InvalidConfig
from bosal_server.options import Resolved, with_settings
from bosal_server.ports import check_port
from bosal_server.security import exposure

config = typer.Typer(help="The settings of a server.", no_args_is_help=True)


@with_settings
def serve(
    resolved: Resolved,
    check: Annotated[
        bool, typer.Option("--check", help="Say what would be open to whom, and end.")
    ] = False,
) -> None:
    """Serve one or more models over gRPC until Ctrl-C or SIGTERM.

    Prints one line when ready. Every option can also be set by its environment variable, and by
    its name in bosal.toml; a flag comes before a variable, a variable before the file.

    [bold]Examples[/bold]

      bosal serve\n
      bosal serve --model Qwen/Qwen3-0.6B-Base --default-recipe rules\n
      bosal serve --model small=./small --model large=./large --recipes ./recipes\n
      bosal serve --config /etc/bosal/bosal.toml --check
    """
    # Read by torch when it is imported: threads that spin for work starve the model's.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if check:
            from bosal_server import check_server

            raise typer.Exit(check_server.report(resolved))
        # Before what takes seconds to import.
        exposure.check(resolved.config)
        check_port(resolved.config.host, resolved.config.port)
        from bosal_server import main
    except InvalidConfig as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        raise _missing("serve", error) from None
    raise typer.Exit(main.serve(resolved.config))


@config.callback()
def _config() -> None:
    """The settings of a server: what they are and where each comes from."""


@config.command("show")
@with_settings
def _show(resolved: Resolved) -> None:
    """Print the effective configuration as a bosal.toml, with passwords of URLs masked.

    Takes the options of `bosal serve`; each value says where it comes from.

    [bold]Examples[/bold]

      bosal config show\n
      bosal config show --config /etc/bosal/bosal.toml --port 0
    """
    typer.echo(show_config.document(resolved), nl=False)


def demo(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]SOURCE",
            help="Serve this model instead of the embedded one.",
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Shown beside `plain`.")
    ] = "steered",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 96,
    seed: Annotated[int, typer.Option(help="Makes the answers repeatable.")] = 1,
) -> None:
    """Start a server, ask a base model without and with rules, and stop the server.

    [bold]Examples[/bold]

      bosal demo\n
      bosal demo --model Qwen/Qwen3-0.6B-Base
    """
    from bosal_server import demo as demonstration

    _check_installed("demo")
    code = demonstration.run(models or (), recipe=recipe, max_tokens=max_tokens, seed=seed)
    raise typer.Exit(code)


def demo_ab(
    users: Annotated[int, typer.Option(min=1, help="Simulated users.")] = 300,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write the report as a page.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Makes the users repeatable.")] = 1,
) -> None:
    """Run an experiment with simulated users on a server of its own, and promote the winner.

    [bold]Example[/bold]

      bosal demo-ab --html brevity.html
    """
    _check_installed("demo-ab")
    from bosal_server import demo_ab as demonstration

    raise typer.Exit(demonstration.run(users=users, html_file=html_file, seed=seed))


def _check_installed(command: str) -> None:
    """Refuse before anything is begun what a server of the demo would refuse."""
    if find_spec("torch") is None:
        raise _missing(command, ModuleNotFoundError(name="torch"))


def _missing(command: str, error: ModuleNotFoundError) -> typer.Exit:
    render.error(RuntimeError(extras.missing(f"`bosal {command}`", "server", error)))
    return typer.Exit(1)
