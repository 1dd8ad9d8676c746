"""Python types as constraints, through Outlines' reading of them.

Pydantic models, dataclasses and TypedDicts become JSON Schemas; Literal, Enum, Union, numbers,
dates and Outlines' own terms become regexes or choices.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module

from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.errors import ConstraintSyntax, ConstraintUnsupported
from bosal_decoding.errors import shorten


def constraint_of(python_type: object) -> Constraint:
    """Return the constraint that a type stands for.

    Raises:
        ConstraintUnsupported: Outlines has no reading of the type.
        InvalidRecipe: what it reads exceeds a limit.
    """
    from outlines.types import dsl

    try:
        term = dsl.python_types_to_terms(python_type)
    except (TypeError, RecursionError, NotImplementedError) as error:
        raise ConstraintUnsupported(f"{shorten(repr(python_type))}: {error}") from None
    if isinstance(term, dsl.JsonSchema):
        return Constraint.read({"json_schema": term.schema}, "")
    if isinstance(term, dsl.CFG):
        return Constraint.read({"grammar": term.definition}, "")
    if isinstance(term, dsl.Alternatives):
        texts = [one.value for one in term.terms if isinstance(one, dsl.String)]
        if len(texts) == len(term.terms):
            return Constraint.read({"choice": texts}, "")
    return Constraint.read({"regex": dsl.to_regex(term)}, "")


def load_types(entries: Sequence[str]) -> Mapping[str, Constraint]:
    """Read `NAME=MODULE:OBJECT` entries: the operator's types, imported from the operator's code.

    Raises:
        ConstraintSyntax: an entry has another form, or its object is not there.
    """
    types: dict[str, Constraint] = {}
    for entry in entries:
        name, equals, place = entry.partition("=")
        module, colon, path = place.partition(":")
        if not (equals and colon and name.isidentifier() and module and path):
            raise ConstraintSyntax(f"python type {shorten(entry)}: give NAME=MODULE:OBJECT")
        if name in types:
            raise ConstraintSyntax(f"two python types are called '{name}'")
        try:
            found: object = import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ConstraintSyntax(f"python type {shorten(entry)}: {error}") from None
        types[name] = constraint_of(found)
    return types
