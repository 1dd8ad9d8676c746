"""All rules by name, and their description for people and programs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType, ModuleType
from typing import Any, Final

from bosal_decoding.errors import InvalidRecipe, PluginUnusable, UnknownName, shorten
from bosal_decoding.rules.installed import installed_rules
from bosal_decoding.rules.plugin import PluginRule
from bosal_decoding.rules.rule import Rule, RuleStage
from bosal_decoding.schema import join_field

_STAGES: Final = list(RuleStage)


def _modules() -> Iterator[ModuleType]:
    """Every file of this folder: whoever adds one need not say so anywhere."""
    folder = [str(Path(__file__).parent)]
    for found in iter_modules(folder, f"{__package__}."):
        if found.name != __name__:
            yield import_module(found.name)


def _rules() -> dict[str, type[Rule]]:
    found = [
        value
        for module in _modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Rule) and not isabstract(value)
    ]
    found.sort(key=lambda rule: _STAGES.index(rule.stage))
    return {rule.name: rule for rule in found}


# In the order of the step contract.
RULES: Final[Mapping[str, type[Rule]]] = MappingProxyType(_rules())


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDescription:
    """What the catalogue says of one rule."""

    rule: str
    summary: str
    stage: str
    formula: str
    source: str
    params_schema: dict[str, Any]
    # Name and version of the package that brings it; "": it is built in.
    package: str = ""


def describe() -> list[RuleDescription]:
    """Describe every rule, with the JSON Schema of its parameters; those of packages last."""
    return [
        RuleDescription(
            rule=name,
            summary=rule.summary,
            stage=rule.stage.value,
            formula=rule.formula,
            source=rule.source,
            params_schema=rule.model_json_schema(),
            package=getattr(rule, "package", ""),
        )
        for name, rule in (*RULES.items(), *installed().items())
    ]


def installed() -> Mapping[str, type[PluginRule]]:
    """The rules that other packages bring, by name.

    Raises:
        PluginUnusable: one cannot be loaded, or takes a built-in rule's name.
    """
    rules = installed_rules()
    for name in rules.keys() & RULES.keys():
        rule = rules[name]
        where = f"{rule.__module__}:{rule.__qualname__}"
        raise PluginUnusable(name, rule.package, where, "a built-in rule has that name")
    return rules


def read_rule(entry: object, field: str) -> Rule:
    """Parse `{rule: NAME, parameter: value, …}` found at `field` of a document."""
    if not isinstance(entry, Mapping):
        raise InvalidRecipe.at(field, "must be a mapping with the key 'rule'")
    params = dict(entry)
    name = params.pop("rule", None)
    where = join_field(field, "rule")
    if not isinstance(name, str):
        raise InvalidRecipe.at(where, "is required" if name is None else "must be text")
    kind = RULES.get(name) or installed().get(name)
    if kind is None:
        raise UnknownName("rule", name, (*RULES, *installed()), field=where)
    for key in params:
        if not isinstance(key, str):
            raise InvalidRecipe.at(field, f"the field name {shorten(str(key))} must be text")
    for key in ("scope", "when"):
        if key in params and not kind.is_scopable:
            message = f"'{name}' has its own place in the answer and takes none"
            raise InvalidRecipe.at(join_field(field, key), message)
    return kind.read(params, field)
