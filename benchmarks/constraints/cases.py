"""The constraints that are measured."""

from typing import Any

WIDE = 128_256
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "required": ["street", "city"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
        "orders": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"id": {"type": "integer"}, "note": {"type": "string"}},
                "required": ["id", "note"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["name", "age", "address", "tags", "orders"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "choice": {"choice": ["yes", "no", "not sure", "nothing of the kind"]},
    "regex": {"regex": r"[a-z]+@[a-z]+\.(com|org|net)"},
    "json_schema": {"json_schema": NESTED},
    "grammar": {"grammar": 'start: sum\nsum: term ("+" term)*\nterm: /[0-9]+/ | "(" sum ")"'},
}
SCHEMAS = (
    NESTED,
    {"type": "array", "items": {"type": "number"}, "maxItems": 20},
    {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(40)}},
    {"enum": [f"value {n}" for n in range(200)]},
    {"anyOf": [{"type": "string", "maxLength": 30}, {"type": "null"}]},
)
