"""Constraints written as grammars for llguidance, and its complaints in our words."""

import json
import re
from typing import Any, Final

from llguidance import LLMatcher

from bosal_decoding.constraints import regex
from bosal_decoding.constraints.constraint import Constraint, Whitespace
from bosal_decoding.constraints.errors import (
    ConstraintSyntax,
    ConstraintTooLarge,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
    InvalidConstraint,
)
from bosal_decoding.constraints.grammar import as_lark
from bosal_decoding.constraints.json_schema import read_schema
from bosal_decoding.constraints.limits import MAX_REPETITION
from bosal_decoding.constraints.plain_schema import plain_schema
from bosal_decoding.errors import shorten

_BLANKS: Final[dict[Whitespace, dict[str, Any]]] = {
    "bounded": {"whitespace_flexible": True, "whitespace_pattern": r"[\x20\x0A]{1,4}"},
    "compact": {"whitespace_flexible": False, "whitespace_pattern": None},
    "free": {"whitespace_flexible": True, "whitespace_pattern": None},
}
_UNSUPPORTED: Final = (
    (re.compile(r"Unimplemented keys: (\[.*\])"), None),
    (re.compile(r"Unknown format: (\S+)"), "format"),
    (re.compile(r"oneOf constraints are not supported"), "oneOf"),
    (re.compile(r"not present in a registry"), "$ref"),
    (re.compile(r"Failed to generate regex for (?:float|integer) range"), "minimum"),
)
_TOO_LARGE: Final = re.compile(
    r"too (many|large|big|deep|complex)|fuel|recursion|exceed|limit", re.I
)


def grammar_of(constraint: Constraint, lead: str, *, lenient: bool = False) -> str:
    """Write a constraint as a grammar, behind the `lead` its text is written after."""
    if constraint.choice is not None:
        return _grammar(_regex("|".join(map(regex.escape, constraint.choice)), lead))
    if constraint.regex is not None:
        return _grammar(_regex(regex.translate(constraint.regex), lead))
    inner: dict[str, Any]
    if constraint.grammar is not None:
        inner = {"lark_grammar": as_lark(constraint.grammar, constraint.syntax)}
    else:
        assert constraint.json_schema is not None
        inner = _json(constraint.json_schema, constraint.whitespace, lenient=lenient)
    if not lead:
        return _grammar(inner)
    outer = {"lark_grammar": f"start: {json.dumps(lead)} @answer"}
    return _grammar(outer, {**inner, "name": "answer"})


def _grammar(*parts: dict[str, Any]) -> str:
    return json.dumps({"grammars": parts})


def _regex(pattern: str, lead: str) -> dict[str, Any]:
    pattern = f"{regex.escape(lead)}(?:{pattern})" if lead else pattern
    return {"lark_grammar": f"start: TEXT\nTEXT: /{pattern}/" if pattern else 'start: ""'}


def _json(text: str, whitespace: Whitespace, *, lenient: bool) -> dict[str, Any]:
    schema = read_schema(text, max_repetition=MAX_REPETITION)
    if "x-guidance" in schema:
        raise ConstraintUnsupported("'x-guidance' is not supported", keywords=["x-guidance"])
    options: Any = {
        "item_separator": ",",
        "key_separator": ":",
        "coerce_one_of": lenient,
        "lenient": lenient,
        **_BLANKS[whitespace],
    }
    plain = json.dumps(plain_schema(schema, max_repetition=MAX_REPETITION))
    grammar = LLMatcher.grammar_from_json_schema(plain, overrides=options)
    return {"json_schema": json.loads(grammar)["grammars"][0]["json_schema"]}


def ignored_keywords(warnings: list[str]) -> tuple[str, ...]:
    """Read what a lenient compilation left out."""
    found: dict[str, None] = {}
    for warning in warnings:
        keywords = _keywords(warning) or (["oneOf"] if warning.startswith("oneOf") else [])
        found.update(dict.fromkeys(keywords or [warning]))
    return tuple(found)


def refusal(message: str) -> InvalidConstraint:
    """Name what is wrong with a constraint that llguidance did not take."""
    first = message.strip().split("\n")[0][:300]
    keywords = _keywords(message)
    if keywords:
        names = ", ".join(f"'{name}'" for name in keywords)
        return ConstraintUnsupported(
            f"{names} cannot be enforced ({first}); allow_unsupported leaves it out",
            keywords=keywords,
        )
    if "Unsatisfiable" in message:
        return ConstraintUnsatisfiable(first)
    if _TOO_LARGE.search(first):
        return ConstraintTooLarge(f"too complex: {first}")
    if "not supported" in message:
        return ConstraintUnsupported(first)
    return ConstraintSyntax(f"cannot be read: {shorten(message.strip(), 300)}")


def _keywords(message: str) -> list[str]:
    for pattern, keyword in _UNSUPPORTED:
        match = pattern.search(message)
        if match is not None:
            return [keyword] if keyword is not None else list(json.loads(match[1]))
    return []
