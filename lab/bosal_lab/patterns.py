"""Judges answers by patterns that a prompt file gives with each item."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from bosal_lab.item import Answer, Item, Score

__all__ = ["CHECKS", "PatternScorer", "check_problem"]


def _words(text: str) -> int:
    return len(text.split())


def _is_json(text: str, wanted: Any) -> bool:
    """`wanted` is true for any JSON, else the fields an object must have, and no others."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return wanted is True or (isinstance(found, dict) and set(found) == set(wanted))


# Of the content: all that an item gives must hold.
_CONTENT: Mapping[str, Callable[[str, Any], bool]] = {
    "exact": lambda text, value: text.casefold() == str(value).casefold(),
    "contains": lambda text, values: all(one.casefold() in text.casefold() for one in values),
    "excludes": lambda text, values: not any(one.casefold() in text.casefold() for one in values),
    "regex": lambda text, pattern: re.search(pattern, text) is not None,
}
# Of the form.
_FORM: Mapping[str, Callable[[str, Any], bool]] = {
    "form_regex": lambda text, pattern: re.fullmatch(pattern, text, re.DOTALL) is not None,
    "max_words": lambda text, count: _words(text) <= count,
    "min_words": lambda text, count: _words(text) >= count,
    "max_lines": lambda text, count: len(text.splitlines()) <= count,
    "json": _is_json,
}
CHECKS: Mapping[str, type | tuple[type, ...]] = {
    "exact": (str, int, float),
    "contains": list,
    "excludes": list,
    "regex": str,
    "form_regex": str,
    "max_words": int,
    "min_words": int,
    "max_lines": int,
    "json": (bool, list),
}


def check_problem(checks: Mapping[str, Any]) -> str | None:
    """Say what is wrong with an item's checks; None if nothing is."""
    for name, value in checks.items():
        if name not in CHECKS:
            return f"no check is named {name!r}; the checks are {', '.join(CHECKS)}"
        if not isinstance(value, CHECKS[name]) or (isinstance(value, bool) and name != "json"):
            return f"check {name!r} cannot be {value!r}"
        if isinstance(value, list) and not all(isinstance(one, str) for one in value):
            return f"check {name!r} takes a list of texts"
        if name in ("regex", "form_regex"):
            try:
                re.compile(str(value))
            except re.error as error:
                return f"check {name!r}: {error}"
    return None


class PatternScorer:
    """An answer without checks has no verdict; spaces around an answer do not count."""

    version = "patterns 1"

    def score(self, item: Item, answer: Answer) -> Score:
        text = answer.text.strip()
        content = [check(text, item.checks[name]) for name, check in _CONTENT.items()
                   if name in item.checks]  # fmt: skip
        form = [check(text, item.checks[name]) for name, check in _FORM.items()
                if name in item.checks]  # fmt: skip
        return Score(
            followed=bool(text) and all(form) if item.checks else None,
            right=all(content) if content else None,
            stopped=answer.has_stopped,
        )
