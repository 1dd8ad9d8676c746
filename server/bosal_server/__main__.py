"""`python -m bosal_server` runs this part's commands without the client's."""

import typer

from bosal_command.ending import prompt_end
from bosal_server import commands, key_commands

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command()(commands.serve)
app.command()(commands.demo)
app.add_typer(commands.config, name="config")
app.add_typer(key_commands.keys, name="keys")

with prompt_end():
    app()
