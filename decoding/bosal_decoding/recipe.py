"""Recipes: named, immutable documents of a scaffold and rules, and where they are read from."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, SerializeAsAny

from bosal_decoding.constraints import Constraint, read_constraint
from bosal_decoding.document import content_version, read_yaml
from bosal_decoding.errors import DecodingError, InvalidRecipe, suggestion
from bosal_decoding.limits import (
    MAX_DESCRIPTION_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_NAME_CHARS,
    MAX_RULES,
)
from bosal_decoding.rules import Rule, RuleStage, read_rule
from bosal_decoding.scaffolds import PlainScaffold, Scaffold, read_scaffold
from bosal_decoding.scaffolds.example_file import with_examples
from bosal_decoding.schema import Schema, at_most_bytes, join_field

# What a recipe that came with a request or an experiment is called; no kept one may be.
INLINE: Final = "inline"
_NAME: Final = re.compile(rf"[A-Za-z0-9._-]{{0,{MAX_NAME_CHARS}}}")


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"letters, digits, '-', '_' and '.', at most {MAX_NAME_CHARS}")
    return name


class Recipe(Schema):
    """What a user writes, compares and ships. Its version hashes what it does, not its name."""

    name: Annotated[str, AfterValidator(_plain_name)] = ""
    description: Annotated[str, at_most_bytes(MAX_DESCRIPTION_BYTES)] = ""
    scaffold: SerializeAsAny[Scaffold] = PlainScaffold()
    rules: tuple[SerializeAsAny[Rule], ...] = ()
    constraint: Constraint | None = None

    @classmethod
    def parse(cls, data: Mapping[str, Any] | str) -> Self:
        """Read a recipe from plain data or from YAML text; strict, with the field in errors."""
        document = read_yaml(data) if isinstance(data, str) else data
        if not isinstance(document, Mapping):
            raise InvalidRecipe.at("", "a recipe must be a mapping")
        for key in document:
            if key not in cls.model_fields:
                message = f"unknown field, {suggestion(str(key), cls.model_fields)}"
                raise InvalidRecipe.at(join_field("", str(key)), message)
        # Null and empty mean unset, as in proto.
        fields = {key: value for key, value in document.items() if value not in (None, "", [], ())}
        if "scaffold" in fields:
            fields["scaffold"] = read_scaffold(fields["scaffold"], "scaffold")
        if "rules" in fields:
            fields["rules"] = _read_rules(fields["rules"], "rules")
        if "constraint" in fields:
            fields["constraint"] = read_constraint(fields["constraint"], "constraint")
        return cls.read(fields, "")

    def with_constraint(self, constraint: Constraint) -> Self:
        """Hold the output to another constraint, or to one at all."""
        fields = {key: getattr(self, key) for key in self.model_fields_set}
        return type(self).read(fields | {"constraint": constraint}, "")

    def with_overrides(self, overrides: Sequence[Mapping[str, Any]]) -> Self:
        """Replace the given parameters rule by rule; a rule that is new is appended.

        A new temperature goes before the first rule of the truncation chain, its default place.
        """
        _refuse_many(overrides, "overrides")
        rules = list(self.rules)
        for index, entry in enumerate(overrides):
            field = join_field("overrides", index)
            name = entry.get("rule") if isinstance(entry, Mapping) else None
            if any(name == other.get("rule") for other in overrides[:index]):
                raise InvalidRecipe.at(join_field(field, "rule"), f"'{name}' is given twice")
            places = [at for at, rule in enumerate(self.rules) if rule.name == name]
            if len(places) > 1:
                message = f"the recipe has '{name}' {len(places)} times; which one is not clear"
                raise InvalidRecipe.at(join_field(field, "rule"), message)
            if places:
                old = rules[places[0]].set_fields()
                rules[places[0]] = read_rule(old | dict(entry), field)
                continue
            rule = read_rule(entry, field)
            place = len(rules)
            if rule.name == "temperature":
                chain = (at for at, rule in enumerate(rules) if rule.stage is RuleStage.TRUNCATE)
                place = next(chain, place)
            rules.insert(place, rule)
        _refuse_many(rules, "rules")
        fields = {key: getattr(self, key) for key in self.model_fields_set}
        return type(self).read(fields | ({"rules": tuple(rules)} if rules else {}), "")

    def document(self) -> dict[str, Any]:
        """The fields the author set, as plain JSON data that `parse` reads back."""
        document = self.model_dump(
            mode="json", exclude_unset=True, exclude={"scaffold", "rules", "constraint"}
        )
        if "scaffold" in self.model_fields_set:
            document["scaffold"] = {"kind": self.scaffold.kind, **self.scaffold.set_fields()}
        if "rules" in self.model_fields_set:
            document["rules"] = [{"rule": rule.name, **rule.set_fields()} for rule in self.rules]
        if self.constraint is not None:
            document["constraint"] = self.constraint.set_fields()
        return document

    @property
    def models(self) -> tuple[str, ...]:
        """The served models its rules name, each once."""
        return tuple(dict.fromkeys(name for rule in self.rules for name in rule.models))

    @cached_property
    def version(self) -> str:
        """Content hash of what the recipe does: neither name nor description counts."""
        document = self.document()
        return content_version(
            {key: value for key, value in document.items() if key not in ("name", "description")}
        )

    def __hash__(self) -> int:
        return hash((self.name, self.version))


def _read_rules(entries: object, field: str) -> tuple[Rule, ...]:
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise InvalidRecipe.at(field, "must be a list")
    _refuse_many(entries, field)
    rules: list[Rule] = []
    for index, entry in enumerate(entries):
        rule = read_rule(entry, join_field(field, index))
        _refuse_repeated(rule, rules, join_field(field, index))
        rules.append(rule)
    return tuple(rules)


def _refuse_repeated(rule: Rule, others: Sequence[Rule], field: str) -> None:
    """A rule may occur twice only where both never act at one step."""
    if any(rule.name == other.name and rule.overlaps(other) for other in others):
        message = f"'{rule.name}' is given twice, and not with disjoint scopes"
        raise InvalidRecipe.at(join_field(field, "rule"), message)


def _refuse_many(entries: Sequence[object], field: str) -> None:
    if len(entries) > MAX_RULES:
        raise InvalidRecipe.at(field, f"at most {MAX_RULES} rules, not {len(entries)}")


def load_shipped() -> dict[str, Recipe]:
    """Read the recipes that come with this package, by name."""
    return _load(files("bosal_decoding").joinpath("recipes").iterdir())


def load_folder(path: Path) -> dict[str, Recipe]:
    """Read every .yaml, .yml and .json file of a folder, by recipe name.

    Their scaffolds may name .jsonl files of the folder as examples.
    """
    return _load(path.iterdir())


def _load(entries: Iterable[Traversable]) -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {}
    files = sorted((one for one in entries if one.is_file()), key=lambda one: one.name)
    examples = {one.name: _beginning(one) for one in files if one.name.endswith(".jsonl")}
    for entry in files:
        stem, _, suffix = entry.name.rpartition(".")
        if suffix not in ("yaml", "yml", "json"):
            continue
        try:
            recipe = _parse_file(entry.read_bytes(), stem, examples)
            if recipe.name == INLINE:
                message = f"'{INLINE}' is what a recipe inside a request is called"
                raise InvalidRecipe.at("name", message)
            if recipe.name in recipes:
                raise InvalidRecipe.at("name", f"'{recipe.name}' is in the folder twice")
        except DecodingError as error:
            raise InvalidRecipe.at(entry.name, str(error)) from None
        recipes[recipe.name] = recipe
    return recipes


def _beginning(entry: Traversable) -> bytes:
    """Read as much as may be, and a byte more, which tells that there is more."""
    with entry.open("rb") as stream:
        return stream.read(MAX_DOCUMENT_BYTES + 1)


def _parse_file(content: bytes, stem: str, examples: Mapping[str, bytes]) -> Recipe:
    try:
        document = read_yaml(content.decode())
    except UnicodeDecodeError:
        raise InvalidRecipe.at("", "not UTF-8") from None
    if isinstance(document, Mapping):
        document = with_examples({"name": stem, **document}, examples)
    return Recipe.parse(document)  # type: ignore[arg-type]  # parse says what is wrong with it
