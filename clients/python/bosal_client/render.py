"""How the command line shows things: tables on a terminal, tab-separated lines in a pipe."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bosal_client import descriptions, results
from bosal_client.errors import BosalError, Unavailable

__all__ = [
    "difference",
    "error",
    "flow",
    "footer",
    "models",
    "note",
    "printable",
    "recipe",
    "recipe_lines",
    "recipe_versions",
    "recipes",
    "table",
    "text",
    "validation",
    "warning",
]

# A model may emit terminal escapes; only line breaks and tabs are let through.
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "�")
del _CONTROL[ord("\n")], _CONTROL[ord("\t")]


def text(part: str) -> None:
    """Write generated text at once; control characters never reach a terminal."""
    sys.stdout.write(printable(part) if sys.stdout.isatty() else part)
    sys.stdout.flush()


def printable(part: str) -> str:
    """Take from a text what could steer a terminal."""
    return part.translate(_CONTROL)


def error(failure: BosalError | Exception, server: str = "") -> None:
    """Say on one line what went wrong, and on the next what to do about it if that is known."""
    message = str(failure)
    hint = ""
    if isinstance(failure, Unavailable) and not failure.reason:
        message, hint = _silence(failure.message, server)
    elif isinstance(failure, BosalError) and failure.retry_after is not None:
        when = f"try again in {failure.retry_after:.1f} s"
        hint = when if when not in message else ""
    elif isinstance(failure, BosalError):
        field = failure.field.removeprefix("spec.")
        hint = f"at {field}" if field not in message else ""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("error: ", "bold red").append(message, "default"))
    if hint:
        console.print(Text(f"  {hint}", "dim"))


def _silence(why: str, server: str) -> tuple[str, str]:
    """Say of a server that nothing was heard from what is known of the reason."""
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return (
            f"the server at {server} is not vouched for by the authorities in BOSAL_TLS_CA",
            why.rpartition("CERTIFICATE_VERIFY_FAILED:")[2].strip(),
        )
    if "WRONG_VERSION_NUMBER" in why:
        return f"the server at {server} speaks no TLS", "unset BOSAL_TLS_CA"
    if "onnection refused" in why or not why:
        hint = "start one with `bosal serve`, or name another with --server"
        return f"no server answers at {server}", hint
    return f"no server answers at {server}", why.rpartition("last error: ")[2].removeprefix(
        "UNAVAILABLE: "
    )


def warning(message: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("warning: ", "yellow").append(message, "default"))


def note(message: str) -> None:
    """Say on standard error how something ended."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(message, "dim"))


def footer(generation: results.Generation) -> None:
    """Summarise a request on standard error, on a terminal only; always say what was left out."""
    constraint = generation.started.constraint
    if constraint is not None and constraint.ignored_keywords:
        verdicts = {choice.schema_valid for choice in generation.choices}
        said = "violated" if False in verdicts else "satisfied"
        said = "not checked" if None in verdicts else said
        names = ", ".join(constraint.ignored_keywords)
        warning(f"not enforced: {names}; the schema as a whole is {said}")
    if not sys.stderr.isatty():
        return
    timings, usage, started = generation.timings, generation.usage, generation.started
    endings = ", ".join(choice.finish_reason for choice in generation.choices)
    parts = [
        endings,
        f"{usage.output_tokens} tokens",
        f"first after {timings.time_to_first_token * 1000:.0f} ms",
    ]
    if timings.decode > 0:
        rate = (usage.output_tokens - len(generation.choices)) / timings.decode
        parts.append(f"{rate:.0f} tokens/s")
    parts += [f"{started.recipe_name}@{started.recipe_version}", f"seed {started.seed}"]
    if (assigned := started.assignment) is not None:
        why = "" if assigned.reason == "assigned" else f" ({assigned.reason})"
        parts.append(f"{assigned.experiment}: {assigned.variant}{why}")
    if started.dropped_messages or started.dropped_examples:
        dropped = f"{started.dropped_messages} messages and {started.dropped_examples} examples"
        parts.append(f"left out {dropped} for room")
    Console(stderr=True, highlight=False).print(Text(" · ".join(parts), "dim"))


def recipes(found: Iterable[descriptions.Recipe]) -> None:
    table(
        ("recipe", "version", "", "description"),
        [
            (one.name, one.version, "default" if one.is_default else "", one.description)
            for one in found
        ],
    )


def recipe_versions(found: Iterable[descriptions.Recipe]) -> None:
    """Show versions of recipes, archived ones too."""
    table(
        ("recipe", "source", "created", "archived", "description"),
        [
            (
                f"{one.name}@{one.version}",
                one.source,
                _moment(one.created_at),
                _moment(one.archived_at),
                one.description,
            )
            for one in found
        ],
    )


def _moment(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}Z" if time is not None else ""


def recipe(found: descriptions.Recipe) -> None:
    """Print a recipe as a document that a server's recipe folder takes."""
    lines = [f"# {found.name}@{found.version}", *recipe_lines(found.document)]
    sys.stdout.write("\n".join(lines) + "\n")


def recipe_lines(document: Mapping[str, Any]) -> list[str]:
    """Write a recipe document as YAML, one rule a line."""
    lines = []
    for key, value in document.items():
        if key == "scaffold":
            lines.append("scaffold:")
            for name, setting in value.items():
                if isinstance(setting, list) and setting:
                    lines.append(f"  {name}:")
                    lines += [f"    - {flow(one)}" for one in setting]
                else:
                    lines.append(f"  {name}: {flow(setting)}")
        elif key == "rules":
            lines.append("rules:" if value else "rules: []")
            lines += [f"  - {flow(one)}" for one in value]
        else:
            lines.append(f"{key}: {flow(value)}")
    return lines


def difference(lines: Iterable[str]) -> None:
    """Print a unified difference, coloured on a terminal."""
    colours = {"+": "green", "-": "red", "@": "cyan"}
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(Text(line.translate(_CONTROL), colours.get(line[:1], "")))


def validation(file: str, outcome: descriptions.Validation | BosalError) -> None:
    """Say of one recipe file what is wrong with it, or what it became."""
    if isinstance(outcome, BosalError):
        sys.stdout.write(f"{file}: error: {outcome}\n")
        return
    cost = [f"{outcome.num_streams} forward pass{'es' * (outcome.num_streams > 1)} a token"]
    if outcome.control_seconds is not None:
        cost.append(f"rules {outcome.control_seconds * 1e6:.0f} us a token")
    cost.append(f"{outcome.scaffold_tokens} scaffold tokens, {outcome.shared_tokens} computed once")
    lines = [f"{file}: ok, version {outcome.version}: {', '.join(cost)}"]
    for rule in outcome.rules:
        params = ", ".join(f"{name} {flow(value)}" for name, value in rule.params.items())
        lines.append(f"  {rule.stage:9} {rule.rule}: {_shorten(params)}")
        lines += [
            f"            {flow(text)} is {', '.join(map(str, ids)) or 'no token here'}"
            for text, ids in rule.token_ids.items()
        ]
    lines += [f"  note: {note}" for note in outcome.notes]
    sys.stdout.write("\n".join(lines) + "\n")


def _shorten(line: str, limit: int = 120) -> str:
    return line if len(line) <= limit else f"{line[:limit]}…"


def flow(value: Any) -> str:
    """Write a value as YAML on one line; JSON is that."""
    return json.dumps(value, ensure_ascii=False)


def models(found: Iterable[descriptions.Model]) -> None:
    table(
        ("model", "", "architecture", "parameters", "context", "runner", "cache tokens"),
        [
            (
                one.name,
                "default" if one.is_default else "",
                one.architecture,
                _count(one.num_parameters),
                str(one.context_tokens),
                f"{one.runner}, {one.device}, {one.dtype}",
                str(one.cache_tokens),
            )
            for one in found
        ],
    )


def _count(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; in a pipe a line per row, cells apart by tabs, without the header."""
    if not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
