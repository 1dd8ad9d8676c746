"""The help of commands as it is shown: paragraphs fill the terminal's lines."""

import inspect

import typer

__all__ = ["flow", "flowing"]


def flow(app: typer.Typer) -> None:
    """Let the help of all commands of an application flow.

    What shows it breaks a line where its docstring does, and again where the terminal ends.
    """
    for command in app.registered_commands:
        if command.callback is not None:
            command.help = flowing(command.help or inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow(group.typer_instance)


def flowing(text: str) -> str:
    """Join the lines of each paragraph; an indented one stays a line of its own."""
    lines: list[str] = []
    for line in text.split("\n"):
        if lines and lines[-1] and line and not line[0].isspace() and not lines[-1][0].isspace():
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)
