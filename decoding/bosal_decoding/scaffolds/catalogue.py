"""All scaffolds by kind."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from bosal_decoding.errors import InvalidRecipe, UnknownName
from bosal_decoding.scaffolds.completion_prefix import CompletionPrefixScaffold
from bosal_decoding.scaffolds.document import DocumentScaffold
from bosal_decoding.scaffolds.in_context import InContextScaffold
from bosal_decoding.scaffolds.plain import PlainScaffold, RawScaffold
from bosal_decoding.scaffolds.qa import QaScaffold
from bosal_decoding.scaffolds.scaffold import Scaffold
from bosal_decoding.scaffolds.turns import TurnsScaffold
from bosal_decoding.schema import join_field

SCAFFOLDS: Final[Mapping[str, type[Scaffold]]] = MappingProxyType(
    {
        scaffold.kind: scaffold
        for scaffold in (
            RawScaffold,
            PlainScaffold,
            TurnsScaffold,
            InContextScaffold,
            QaScaffold,
            DocumentScaffold,
            CompletionPrefixScaffold,
        )
    }
)


def read_scaffold(entry: object, field: str) -> Scaffold:
    """Parse `{kind: KIND, parameter: value, …}` found at `field` of a document."""
    if not isinstance(entry, Mapping):
        raise InvalidRecipe.at(field, "must be a mapping with the key 'kind'")
    params: dict[str, Any] = dict(entry)
    kind = params.pop("kind", None)
    where = join_field(field, "kind")
    if not isinstance(kind, str):
        raise InvalidRecipe.at(where, "is required" if kind is None else "must be text")
    if kind not in SCAFFOLDS:
        raise UnknownName("scaffold", kind, SCAFFOLDS, field=where)
    if "examples_file" in params:
        message = "is read beside a recipe in the server's folder only; here give 'examples'"
        raise InvalidRecipe.at(join_field(field, "examples_file"), message)
    return SCAFFOLDS[kind].read(params, field)
