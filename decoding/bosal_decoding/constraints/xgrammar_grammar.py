"""Constraints written as grammars for xgrammar, and the keywords it would ignore."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from bosal_decoding.constraints import regex
from bosal_decoding.constraints.constraint import Constraint, Whitespace
from bosal_decoding.constraints.errors import ConstraintUnsupported
from bosal_decoding.constraints.limits import MAX_UNROLLED_REPETITION

_BLANKS: Final[dict[Whitespace, dict[str, Any]]] = {
    "bounded": {"any_whitespace": True, "max_whitespace_cnt": 4},
    "compact": {"any_whitespace": False, "separators": (",", ":")},
    "free": {"any_whitespace": True},
}
# Ignored on a schema that names no type.
_TYPED: Final = frozenset(
    {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minLength", "maxLength", "pattern", "format",
        "minItems", "maxItems", "prefixItems", "items",
        "minProperties", "maxProperties", "required", "properties", "additionalProperties",
        "patternProperties",
    }
)  # fmt: skip


def recipe_of(constraint: Constraint, lead: str) -> dict[str, Any]:
    """Say how the grammar is built, as plain data that the trial process reads too."""
    recipe: dict[str, Any] = {"lead": json.dumps(lead) if lead else ""}
    if constraint.regex is not None:
        pattern = regex.translate(constraint.regex, max_repetition=MAX_UNROLLED_REPETITION)
        return recipe | {"regex": regex.with_literals(pattern)}
    if constraint.choice is not None:
        # JSON's escapes are those of the grammar's strings.
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in constraint.choice)
        return recipe | {"ebnf": f"root ::= {texts}"}
    if constraint.grammar is not None:
        if constraint.syntax != "gbnf":
            raise ConstraintUnsupported(
                "xgrammar takes grammars with 'syntax: gbnf'", keywords=["syntax"]
            )
        return recipe | {"ebnf": constraint.grammar}
    assert constraint.json_schema is not None
    return recipe | {
        "schema": constraint.json_schema,
        "options": _BLANKS[constraint.whitespace],
    }


def grammar_of(recipe: dict[str, Any]) -> Any:
    """Build the grammar that a recipe describes."""
    from xgrammar import Grammar

    if "regex" in recipe:
        grammar = Grammar.from_regex(recipe["regex"])
    elif "ebnf" in recipe:
        grammar = Grammar.from_ebnf(recipe["ebnf"])
    else:
        grammar = Grammar.from_json_schema(recipe["schema"], **recipe["options"])
    if recipe["lead"]:
        return Grammar.concat(Grammar.from_ebnf(f"root ::= {recipe['lead']}"), grammar)
    return grammar


def tokenizer_info(token_bytes: Sequence[bytes]) -> Any:
    """Describe a vocabulary of bytes whose end is one more token; empty ones are special."""
    from xgrammar import TokenizerInfo, VocabType

    return TokenizerInfo(
        [*token_bytes, b"<end>"],
        vocab_type=VocabType.RAW,
        vocab_size=len(token_bytes) + 1,
        stop_token_ids=[len(token_bytes)],
    )


def ignored_keywords(schema: Any) -> Iterator[str]:
    """Yield keywords that xgrammar leaves out without a word."""
    if isinstance(schema, list):
        for part in schema:
            yield from ignored_keywords(part)
    if not isinstance(schema, dict):
        return
    if "type" not in schema:
        yield from (f"'{key}' without 'type'" for key in schema if key in _TYPED)
    for key in ("pattern", "patternProperties", "multipleOf", "format"):
        if key in schema:
            yield f"'{key}'"
    names = schema.get("properties")
    required = schema.get("required", [])
    if isinstance(required, list) and not set(required) <= set(names or ()):
        yield "'required' without 'properties'"
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            for part in value.values():
                yield from ignored_keywords(part)
        elif key not in ("enum", "const", "default", "examples"):
            yield from ignored_keywords(value)
