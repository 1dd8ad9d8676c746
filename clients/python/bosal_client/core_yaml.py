"""YAML as recipes are read: its core schema, without YAML 1.1's surprises.

Only `true` and `false` are booleans, so a variant may be called `on`, `no` or `12:30`; `1_000` is
text, `1e5` is a number. A key given twice, an anchor, an alias and a tag are errors. The server
reads recipes by the same rules, in `bosal_decoding.document`: the client has a reader of its own
since it is installed without torch, and a test holds the two against each other.
"""

import re
from collections.abc import Hashable
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError

__all__ = ["read_yaml"]

_TAG: Final = "tag:yaml.org,2002:"
# What a plain scalar is, and the characters it may begin with; anything else is text.
_SCALARS: Final = (
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    ("int", r"[-+]?[0-9]+\Z", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        list("-+.0123456789"),
    ),
)


def read_yaml(text: str) -> Any:
    """Parse one document.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, Loader=_CoreLoader)  # a SafeLoader


class _CoreLoader(yaml.SafeLoader):
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
        found: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConstructorError(None, None, "a key must be a scalar", key_node.start_mark)
            if key in found:
                why = f"the key {key!r:.60} is given twice"
                raise ConstructorError(None, None, why, key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        # JSON writes a character beyond 16 bits as two escapes; YAML reads each alone.
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            return text


_CoreLoader.add_constructor(f"{_TAG}int", _CoreLoader.construct_integer)
_CoreLoader.add_constructor(f"{_TAG}str", _CoreLoader.construct_text)
for _name, _pattern, _first in _SCALARS:
    _CoreLoader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(_pattern), _first)
