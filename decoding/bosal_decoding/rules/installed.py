"""The rules that other installed packages bring."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from types import MappingProxyType
from typing import Final

from bosal_decoding.errors import PluginUnusable
from bosal_decoding.rules.plugin import PluginRule
from bosal_decoding.rules.rule import RuleStage

GROUP: Final = "bosal.rules"

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@cache
def installed_rules() -> Mapping[str, type[PluginRule]]:
    """Import the rules of all installed packages, by name; once in a process.

    Raises:
        PluginUnusable: one of them is no rule, or cannot be imported.
    """
    found: dict[str, type[PluginRule]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        rule = _load(entry)
        for fault in _faults(entry, rule, found):
            raise PluginUnusable(entry.name, _package(entry), entry.value, fault)
        rule.package = _package(entry)
        found[entry.name] = rule
    return MappingProxyType(found)


def _load(entry: EntryPoint) -> type[PluginRule]:
    try:
        rule = entry.load()
    except Exception as error:
        cause = f"importing it failed: {type(error).__name__}: {error}"
        raise PluginUnusable(entry.name, _package(entry), entry.value, cause) from error
    if not isinstance(rule, type) or not issubclass(rule, PluginRule):
        cause = "it is no subclass of bosal_decoding.rules.PluginRule"
        raise PluginUnusable(entry.name, _package(entry), entry.value, cause)
    return rule


def _faults(
    entry: EntryPoint, rule: type[PluginRule], others: Mapping[str, type[PluginRule]]
) -> Iterator[str]:
    """Say what keeps a class from being a rule."""
    if isabstract(rule):
        missing = ", ".join(sorted(rule.__abstractmethods__))
        yield f"it lacks the method {missing}"
    for name in ("name", "stage", "summary", "formula", "source"):
        if not getattr(rule, name, None):
            yield f"its class attribute '{name}' is not set"
    if not _NAME.fullmatch(entry.name):
        yield "its name may have small letters, digits and '_', at most 64, a letter first"
    if rule.name != entry.name:
        yield f"the class calls itself '{rule.name}'"
    if rule.stage not in (RuleStage.SHAPE, RuleStage.MASK):
        yield f"its stage is '{rule.stage}'; a plug-in's is 'shape' or 'mask'"
    if entry.name in others:
        yield f"{others[entry.name].package} has a rule of that name too"
    try:
        rule.model_json_schema()
    except Exception as error:
        yield f"its parameters have no JSON Schema: {error}"


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
