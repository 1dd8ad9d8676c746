"""JSON Schemas before they are compiled: read, bounded, and with regexes of our dialect."""

import json
from collections.abc import Iterator
from typing import Any, Final

from bosal_decoding.constraints.errors import (
    ConstraintSyntax,
    ConstraintTooLarge,
    ConstraintUnsupported,
)
from bosal_decoding.constraints.limits import MAX_DEPTH, MAX_ENUM_VALUES

COUNTS: Final = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
)  # fmt: skip
# Keywords whose value is data, not a schema.
DATA: Final = ("enum", "const", "default", "examples")
# Keywords whose value holds schemas by names, which are no keywords.
BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def read_schema(text: str, *, max_repetition: int) -> dict[str, Any]:
    """Parse a schema and refuse what is too large, remote or not JSON."""
    try:
        schema = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ConstraintTooLarge(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise ConstraintSyntax(f"not JSON: {error}") from None
    try:
        json.dumps(schema, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ConstraintSyntax("holds a lone surrogate, which is not Unicode") from None
    if isinstance(schema, bool):
        # Spelled out, because the compiler reads objects alone.
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise ConstraintSyntax("a JSON Schema is an object, true or false")
    if _depth(schema) > MAX_DEPTH:
        raise ConstraintTooLarge(f"nested deeper than {MAX_DEPTH}")
    _check(schema, max_repetition, set(_ids(schema)))
    return schema


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is beyond the numbers of 64 bits")
    return value


def _depth(value: Any) -> int:
    """Nesting of containers; stops counting just beyond the limit."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        level = [part for one in level for part in _parts(one)]
        depth += 1
    return depth


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (part for part in value.values() if isinstance(part, dict | list))
    elif isinstance(value, list):
        yield from (part for part in value if isinstance(part, dict | list))


def _ids(value: Any) -> Iterator[str]:
    """Yield the addresses of the schemas that a document holds."""
    if isinstance(value, list):
        for part in value:
            yield from _ids(part)
    if isinstance(value, dict):
        if isinstance(value.get("$id"), str):
            yield value["$id"].rstrip("#")
        for part in _schemas(value):
            yield from _ids(part)


def _schemas(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield what a schema's keywords hold, other than data."""
    for key, part in schema.items():
        if key in BY_NAME and isinstance(part, dict):
            yield from part.values()
        elif key not in DATA:
            yield part


def _check(value: Any, max_repetition: int, ids: set[str]) -> None:
    if isinstance(value, list):
        for part in value:
            _check(part, max_repetition, ids)
    if not isinstance(value, dict):
        return
    for key, part in value.items():
        is_reference = key in ("$ref", "$dynamicRef") and isinstance(part, str)
        if is_reference and "://" in part and part.split("#")[0] not in ids:
            raise ConstraintUnsupported(
                f"'{key}' to another document is not followed", keywords=[key]
            )
        if key == "enum" and isinstance(part, list) and len(part) > MAX_ENUM_VALUES:
            raise ConstraintTooLarge(
                f"an enum of {len(part)} values; at most {MAX_ENUM_VALUES} are allowed"
            )
        if key in COUNTS and isinstance(part, int | float) and part > max_repetition:
            raise ConstraintTooLarge(f"'{key}' of {part}; at most {max_repetition} is allowed")
    for part in _schemas(value):
        _check(part, max_repetition, ids)


_BYTES_PER_TOKEN: Final = 3
_MAX_JUMP: Final = 256


def longest_jump(text: str | None) -> int:
    """Roughly the most tokens that entering one part of a schema makes necessary."""
    if text is None:
        return 0
    widest = 0

    def skeleton(part: Any) -> int:
        """Bytes of the smallest value; what is referred to counts where it is defined."""
        nonlocal widest
        if isinstance(part, list):
            return max(map(skeleton, part), default=0)
        if not isinstance(part, dict):
            return 4
        required = part.get("required")
        names = set(required) if isinstance(required, list) else set()
        size = 2
        for key, value in part.items():
            if key == "properties" and isinstance(value, dict):
                sizes = {name: skeleton(one) for name, one in value.items()}
                size += sum(len(name) + 4 + sizes[name] for name in names & sizes.keys())
            elif key == "items" and isinstance(part.get("minItems"), int):
                size += skeleton(value) * min(part["minItems"], 1000)
            elif key == "const":
                size += len(json.dumps(value))
            elif isinstance(value, dict):
                size += max((skeleton(one) for one in value.values()), default=0)
            elif isinstance(value, list) and key not in DATA:
                size += skeleton(value)
        minimum = part.get("minLength")
        size += min(minimum, 1000) if isinstance(minimum, int) else 0
        widest = max(widest, size)
        return size

    skeleton(json.loads(text))
    return min(widest // _BYTES_PER_TOKEN, _MAX_JUMP)
