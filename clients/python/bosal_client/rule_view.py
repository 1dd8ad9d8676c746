"""The catalogue of rules on a terminal."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from bosal_client import descriptions, render
from bosal_client.render import flow

__all__ = ["rule", "rules"]


def rules(found: Iterable[descriptions.Rule]) -> None:
    render.table(
        ("rule", "stage", "parameters", "summary", "source"),
        [
            (one.rule, one.stage, ", ".join(_own_params(one)), _with_package(one), one.source)
            for one in found
        ],
    )


def _with_package(found: descriptions.Rule) -> str:
    return f"{found.summary} (plug-in, {found.package})" if found.package else found.summary


def rule(found: descriptions.Rule) -> None:
    """Print all that the catalogue says about a rule."""
    lines = [
        found.rule,
        f"  {found.summary}",
        f"  stage    {found.stage}",
        f"  formula  {found.formula}",
        f"  source   {found.source}",
        *([f"  plug-in  {found.package}, runs in Python"] if found.package else []),
        "  parameters",
    ]
    required = found.params_schema.get("required", [])
    for name, schema in _params(found).items():
        default = f", default {flow(schema['default'])}" if "default" in schema else ""
        need = ", required" if name in required else ""
        lines.append(f"    {name}: {_kind(schema)}{default}{need}")
        if schema.get("description"):
            lines.append(f"      {schema['description']}")
    sys.stdout.write("\n".join(lines) + "\n")


def _params(found: descriptions.Rule) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = found.params_schema.get("properties", {})
    return properties


def _own_params(found: descriptions.Rule) -> list[str]:
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
    limits = [f"{sign} {flow(schema[key])}" for key, sign in bounds.items() if key in schema]
    return " ".join([str(schema.get("type", "any")), *limits])
