"""JSON Schemas in plainer words: the same language, in keywords that more matchers know."""

from typing import Any, Final

from bosal_decoding.constraints import regex
from bosal_decoding.constraints.errors import ConstraintTooLarge, InvalidConstraint
from bosal_decoding.constraints.json_schema import BY_NAME, COUNTS, DATA

# They say nothing without a neighbour.
_COMPANIONS: Final = {
    "then": ("if",),
    "else": ("if",),
    "if": ("then", "else"),
    "minContains": ("contains",),
    "maxContains": ("contains",),
}
# Schemas beside another, which may evaluate its properties and items too.
_IN_PLACE: Final = frozenset(
    {
        "$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "then",
        "else", "dependentSchemas",
    }
)  # fmt: skip


def plain_schema(schema: Any, *, max_repetition: int) -> Any:
    """Rewrite a schema without changing what it accepts.

    Every `pattern` is written so that it means the same to every backend; what Python cannot read
    (`\\p{L}`) is left as it is, for the backend to accept or refuse. Whole counts are written as
    integers, keywords that say nothing are left out, and `unevaluated…` becomes the keyword it
    equals where no other schema stands beside.
    """
    if isinstance(schema, list):
        return [plain_schema(part, max_repetition=max_repetition) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in _with_plain_keywords(schema).items():
        if key in DATA:
            found[key] = value
        elif key in COUNTS and isinstance(value, float) and value.is_integer():
            found[key] = int(value)
        elif key == "pattern" and isinstance(value, str):
            found[key] = _plain(value, max_repetition)
        elif key == "patternProperties" and isinstance(value, dict):
            found[key] = _by_pattern(value, max_repetition)
        elif key in BY_NAME and isinstance(value, dict):
            found[key] = {
                name: plain_schema(part, max_repetition=max_repetition)
                for name, part in value.items()
            }
        else:
            found[key] = plain_schema(value, max_repetition=max_repetition)
    return found


def _with_plain_keywords(schema: dict[str, Any]) -> dict[str, Any]:
    found = {
        key: value
        for key, value in schema.items()
        if key not in _COMPANIONS or any(one in schema for one in _COMPANIONS[key])
    }
    # An `if` alone evaluates properties too.
    is_alone = not _IN_PLACE & schema.keys()
    for key, equal in (
        ("unevaluatedProperties", "additionalProperties"),
        ("unevaluatedItems", "items"),
    ):
        # `True` asks for nothing, and behind the other keyword nothing is left unevaluated.
        if found.get(key) is True or (key in found and equal in found):
            del found[key]
        elif key in found and is_alone and "contains" not in found:
            found[equal] = found.pop(key)
    return found


def _by_pattern(schemas: dict[str, Any], max_repetition: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pattern, schema in schemas.items():
        name = _plain(pattern, max_repetition)
        part = plain_schema(schema, max_repetition=max_repetition)
        # Two that mean the same may be written alike; both hold.
        found[name] = {"allOf": [found[name], part]} if name in found else part
    return found


def _plain(pattern: str, max_repetition: int) -> str:
    try:
        return regex.translate(pattern, max_repetition=max_repetition, search=True)
    except ConstraintTooLarge:
        raise
    except InvalidConstraint:
        return pattern
