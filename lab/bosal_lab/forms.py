"""The form an item asks for, as a constraint: what a program that reads the answer would send.

Only what the instruction says goes in: its options, its fields, that it wants a number. The shape
of a JSON field (one text or several) is that of the answer sheet, as a caller's schema has it.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from bosal_lab.item import Item

__all__ = ["FORMED", "form_of", "is_formed"]

# Recipes of this ending hold every answer to its item's form.
FORMED: Final = "-formed"


def is_formed(recipe: str) -> bool:
    return recipe.endswith(FORMED)


def form_of(item: Item) -> dict[str, Any] | None:
    """Return the constraint of an item's category; None where the form is free."""
    match item.category:
        case "yes_no":
            return {"choice": ["Yes.", "No."]}
        case "choose":
            return {"choice": sorted([*item.checks["expected"], *item.checks["wrong"]])}
        case "year":
            return {"regex": "[0-9]{3,4}"}
        case "count" if "umber" in item.instruction.split("?")[-1]:
            return {"regex": "[0-9]{1,2}"}
        case "sentence":
            return {"regex": r"[A-Z][^.!?\n]{8,200}\."}
        case "bullets":
            return {"regex": r"(- [^\n]{1,40}\n){0,11}- [^\n]{1,40}"}
        case "json":
            return {"json_schema": _schema(json.loads(item.checks["expected"][0]))}
        case _:
            return None


def _schema(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _shape(value) for name, value in answer.items()},
        "required": list(answer),
        "additionalProperties": False,
    }


def _shape(value: Any) -> dict[str, Any]:
    match value:
        case list():
            return {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 8}
        case int():
            return {"type": "integer"}
        case _:
            return {"type": "string", "minLength": 1, "maxLength": 60}
