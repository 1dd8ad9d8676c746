"""`python -m bosal_server` runs `serve` or `demo` without the client's commands."""

import typer

from bosal_server import commands

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command()(commands.serve)
app.command()(commands.demo)

app()
