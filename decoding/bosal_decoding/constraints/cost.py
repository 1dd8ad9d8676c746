"""What a constraint costs to compile, judged before anything is compiled.

Only a bound from above can be trusted with what a client sends, so a constraint is cheap when all
it holds is known to be: literals, classes and repetitions of a small unrolled size, and schema
keywords that never make the compiler intersect two languages. Everything else is not known.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from bosal_decoding.constraints import regex
from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.errors import InvalidConstraint
from bosal_decoding.constraints.limits import MAX_CHEAP_BYTES, MAX_CHEAP_SIZE

_REMARKS: Final = frozenset(
    {
        "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
        "$comment", "$schema", "$id",
    }
)  # fmt: skip
_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
# Those that may stand together; a schema with keywords of two rows, or with one that is in none,
# may make the compiler intersect them.
_ALIKE: Final = (
    frozenset({"type", "enum"}),
    frozenset({"const"}),
    frozenset({"$ref"}),
    frozenset({"anyOf"}),
    frozenset({"type", *_BOUNDS}),
    frozenset({"type", "minLength", "maxLength"}),
    frozenset({"type", "format"}),
    frozenset({"type", "pattern"}),
    frozenset({"type", "items", "minItems", "maxItems"}),
    frozenset({"type", "properties", "required", "additionalProperties"}),
)
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})


def is_cheap(constraint: Constraint) -> bool:
    """Whether compiling a constraint for llguidance is known to take no more than milliseconds."""
    if constraint.choice is not None:
        return sum(map(len, constraint.choice)) <= MAX_CHEAP_SIZE
    if constraint.regex is not None:
        return _pattern_size(constraint.regex) <= MAX_CHEAP_SIZE
    if constraint.json_schema is None or len(constraint.json_schema) > MAX_CHEAP_BYTES:
        return False
    try:
        schema = json.loads(constraint.json_schema)
        return _schema_size(schema) <= MAX_CHEAP_SIZE
    except (ValueError, RecursionError):
        return False


def _pattern_size(pattern: str) -> float:
    try:
        return regex.unrolled_size(pattern)
    except InvalidConstraint:
        return float("inf")


def _schema_size(schema: Any) -> float:
    """Roughly the characters a schema's grammar has, repetitions written out; infinite: unknown."""
    if isinstance(schema, bool):
        return 1
    if not isinstance(schema, Mapping):
        return float("inf")
    keys = schema.keys() - _REMARKS - _DEFINITIONS
    if not any(keys <= alike for alike in _ALIKE):
        return float("inf")
    size = 1.0
    for key in _DEFINITIONS & schema.keys():
        size += _sum_of(schema[key])
    for key in keys:
        size += _keyword_size(key, schema[key])
    return size * _repetitions(schema)


def _keyword_size(key: str, value: Any) -> float:
    match key:
        case "properties":
            return _sum_of(value)
        case "items" | "additionalProperties":
            return _schema_size(value)
        case "anyOf" if isinstance(value, list):
            return sum(map(_schema_size, value))
        case "pattern" if isinstance(value, str):
            return _pattern_size(value)
        case "anyOf" | "pattern":
            return float("inf")
        case _:
            return len(json.dumps(value))


def _sum_of(named: Any) -> float:
    if not isinstance(named, Mapping):
        return float("inf")
    return sum(len(name) + _schema_size(part) for name, part in named.items())


def _repetitions(schema: Mapping[str, Any]) -> float:
    counts: list[Any] = [
        schema.get(key, 1) for key in ("minLength", "maxLength", "minItems", "maxItems")
    ]
    if not all(isinstance(count, int | float) for count in counts):
        return float("inf")
    return float(max(1, *counts))
