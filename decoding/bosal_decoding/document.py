"""Recipe documents as text and as plain data: strict YAML in, canonical JSON out.

YAML is read by its core schema, without YAML 1.1's surprises: only `true` and `false` are
booleans, so the token strings yes, no, on and off need no quotes; `1e5` is a number; dates,
octal and base-60 numbers are text. A key given twice, an anchor, an alias and a tag are errors.
A number, `true`, `false` or `null` meant as a token string needs quotes.
"""

import hashlib
import json
import re
from collections.abc import Hashable
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError

from bosal_decoding.errors import InvalidRecipe, shorten
from bosal_decoding.limits import MAX_DOCUMENT_BYTES

# Part of every version; raised when a default or a meaning changes.
SCHEMA_NUMBER: Final = 1
_TAG: Final = "tag:yaml.org,2002:"


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the core schema's scalars, unique keys and no references or tags."""

    # Not inherited: SafeLoader's table holds YAML 1.1's booleans and dates.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise ConstructorError(
                None, None, "anchors and aliases are not allowed", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise ConstructorError(None, None, "tags are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConstructorError(None, None, "a key must be a scalar", key_node.start_mark)
            if key in result:
                why = f"key {shorten(str(key))} is given twice"
                raise ConstructorError(None, None, why, key_node.start_mark)
            result[key] = self.construct_object(value_node, deep=True)
        return result

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        if text.isascii():
            return text
        # JSON writes a character beyond 16 bits as two escapes; YAML reads each alone.
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            return text


_CoreLoader.add_constructor(f"{_TAG}int", _CoreLoader.construct_integer)
_CoreLoader.add_constructor(f"{_TAG}str", _CoreLoader.construct_text)
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)


def read_yaml(text: str) -> object:
    """Parse one YAML (or JSON) document strictly."""
    if len(text.encode(errors="surrogatepass")) > MAX_DOCUMENT_BYTES:
        raise InvalidRecipe.at("", f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        return yaml.load(text, Loader=_CoreLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidRecipe.at("", f"{where}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRecipe.at("", f"not readable as YAML: {type(error).__name__}") from None


def write_yaml(document: object) -> str:
    """Write plain data as YAML that `read_yaml` reads back."""
    text = yaml.dump(document, Dumper=_CoreDumper, allow_unicode=True, sort_keys=False)
    assert isinstance(text, str)
    return text


def canonical_json(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_version(document: object) -> str:
    """Hash plain data together with the schema number into 16 hex digits."""
    content = canonical_json({"schema": SCHEMA_NUMBER, "recipe": document})
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class _CoreDumper(yaml.SafeDumper):
    """SafeDumper that quotes every text, so that no other YAML reader takes it for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = re.fullmatch(r"[A-Za-z][A-Za-z_]*", text) is not None and text.lower() not in _KEYWORDS
    return dumper.represent_scalar(f"{_TAG}str", text, style=None if plain else '"')


_KEYWORDS: Final = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_CoreDumper.add_representer(str, _represent_text)
