"""How the command line shows things: tables on a terminal, tab-separated lines in a pipe."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bosal_client import results
from bosal_client.errors import BosalError, Unavailable

__all__ = [
    "error",
    "footer",
    "models",
    "printable",
    "recipe",
    "recipes",
    "rule",
    "rules",
    "table",
    "text",
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
        message = f"no server answers at {server}"
        hint = "start one with `bosal serve`, or name another with --server"
    elif isinstance(failure, BosalError) and failure.retry_after is not None:
        hint = f"try again in {failure.retry_after:.1f} s"
    elif isinstance(failure, BosalError) and failure.field and failure.field not in message:
        hint = f"at {failure.field}"
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("error: ", "bold red").append(message, "default"))
    if hint:
        console.print(Text(f"  {hint}", "dim"))


def warning(message: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("warning: ", "yellow").append(message, "default"))


def footer(generation: results.Generation) -> None:
    """Summarise a request on standard error, on a terminal only."""
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
    Console(stderr=True, highlight=False).print(Text(" · ".join(parts), "dim"))


def recipes(found: Iterable[results.Recipe]) -> None:
    table(
        ("recipe", "version", "", "description"),
        [
            (one.name, one.version, "default" if one.is_default else "", one.description)
            for one in found
        ],
    )


def recipe(found: results.Recipe) -> None:
    """Print a recipe as a document that a server's recipe folder takes."""
    lines = [f"# {found.name}@{found.version}", f"name: {_flow(found.name)}"]
    if found.description:
        lines.append(f"description: {_flow(found.description)}")
    if "scaffold" in found.document:
        lines.append("scaffold:")
        lines += [f"  {key}: {_flow(value)}" for key, value in found.document["scaffold"].items()]
    lines.append("rules:" if found.document["rules"] else "rules: []")
    lines += [f"  - {_flow(one)}" for one in found.document["rules"]]
    if "constraint" in found.document:
        lines.append(f"constraint: {_flow(found.document['constraint'])}")
    sys.stdout.write("\n".join(lines) + "\n")


def _flow(value: Any) -> str:
    """Write a value as YAML on one line; JSON is that."""
    return json.dumps(value, ensure_ascii=False)


def rules(found: Iterable[results.Rule]) -> None:
    table(
        ("rule", "stage", "parameters", "summary"),
        [(one.rule, one.stage, ", ".join(_own_params(one)), one.summary) for one in found],
    )


def rule(found: results.Rule) -> None:
    """Print all that the catalogue says about a rule."""
    lines = [
        found.rule,
        f"  {found.summary}",
        f"  stage    {found.stage}",
        f"  formula  {found.formula}",
        f"  source   {found.source}",
        "  parameters",
    ]
    required = found.params_schema.get("required", [])
    for name, schema in _params(found).items():
        default = f", default {_flow(schema['default'])}" if "default" in schema else ""
        need = ", required" if name in required else ""
        lines.append(f"    {name}: {_kind(schema)}{default}{need}")
        if schema.get("description"):
            lines.append(f"      {schema['description']}")
    sys.stdout.write("\n".join(lines) + "\n")


def _params(found: results.Rule) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = found.params_schema.get("properties", {})
    return properties


def _own_params(found: results.Rule) -> list[str]:
    """Name the parameters that not every rule takes."""
    return [name for name in _params(found) if name not in ("scope", "when")]


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "$ref" in schema:
        return "object"
    bounds = {
        "minimum": ">=",
        "exclusiveMinimum": ">",
        "maximum": "<=",
        "exclusiveMaximum": "<",
    }
    limits = [f"{sign} {_flow(schema[key])}" for key, sign in bounds.items() if key in schema]
    return " ".join([str(schema.get("type", "any")), *limits])


def models(found: Iterable[results.Model]) -> None:
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
