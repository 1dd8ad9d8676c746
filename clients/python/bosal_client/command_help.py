"""The help of commands as it is shown: paragraphs fill the terminal's lines."""

import inspect

import typer

__all__ = ["flow", "flowing"]

# Shown as nothing. What shows the help takes the indent that all lines behind a heading have for
# its margin.
_EDGE = "[dim][/dim]"


def flow(app: typer.Typer) -> None:
    """Let the help of all commands of an application flow.

    What shows it breaks a line where its docstring does, and again where the terminal ends.
    """
    for command in app.registered_commands:
        if command.callback is not None:
            command.help = flowing(command.help or inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            described, callback = (
                group.typer_instance.info,
                group.typer_instance.registered_callback,
            )
            if isinstance(described.help, str):
                described.help = flowing(described.help)
            elif callback is not None and callback.callback is not None:
                callback.help = flowing(inspect.getdoc(callback.callback) or "")
            flow(group.typer_instance)


def flowing(text: str) -> str:
    """Join the lines of each paragraph; an indented one stays a line of its own, below another."""
    lines: list[str] = []
    for line in text.split("\n"):
        if _is_indented(line):
            if lines[-1:] == [""] and len(lines) > 1 and _is_indented(lines[-2]):
                lines.pop()
            lines.append(f"{_EDGE}{line.removeprefix(_EDGE)}")
        elif lines and lines[-1] and line and not _is_indented(lines[-1]):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _is_indented(line: str) -> bool:
    return line[:1].isspace() or line.startswith(_EDGE)
