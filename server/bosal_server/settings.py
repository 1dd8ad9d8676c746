"""A field that an operator can set: by a flag, a variable and a key of the configuration file."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

_KEY = "setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the three ways to set a field need to know of it."""

    name: str  # the key of the file; the flag is `--name`, the variable `BOSAL_NAME`
    help: str
    default: Any
    # What one value is: bool, int, float, str, Path or an enum of texts.
    kind: type
    is_list: bool
    minimum: float | None
    maximum: float | None
    metavar: str | None
    flags: tuple[str, ...]
    variable: str
    # Of a path: "file" or "folder" if it must be there.
    must_be: str | None
    # Makes the field's value of the texts given; None: they are the value.
    parse: Callable[[Sequence[str]], Any] | None

    def value(self, plain: Any) -> Any:
        """Make what the field holds of a plain value that was checked."""
        return self.kind(plain) if self.parse is None else self.parse(plain)


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    metavar: str | None = None,
    flags: tuple[str, ...] = (),
    variable: str | None = None,
    must_be: Literal["file", "folder"] | None = None,
    parse: Callable[[Sequence[str]], Any] | None = None,
) -> Any:
    """Declare a dataclass field that `settings_of` finds; `parse` takes a list of texts."""
    details = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "metavar": metavar,
        "flags": flags,
        "variable": variable,
        "must_be": must_be,
        "parse": parse,
    }
    return dataclasses.field(default=default, metadata={_KEY: details})


def settings_of(config: type) -> Iterator[Setting]:
    """Yield the settings of a dataclass and of the dataclasses it holds, in order."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings_of(hints[field.name])
            continue
        details = dict(field.metadata.get(_KEY, {}))
        if not details:
            continue
        parse = details["parse"]
        kind = str if parse else _kind(hints[field.name])
        variable = details.pop("variable") or f"BOSAL_{field.name.upper()}"
        flags = details.pop("flags") or (f"--{field.name.replace('_', '-')}",)
        yield Setting(
            name=field.name,
            default=field.default,
            kind=kind,
            is_list=parse is not None,
            variable=variable,
            flags=flags,
            **details,
        )


def build(config: type, values: dict[str, Any]) -> Any:
    """Make the dataclass, and those it holds, of the values of its settings."""
    hints = get_type_hints(config)
    arguments = {}
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            arguments[field.name] = build(hint, values)
        elif field.name in values:
            arguments[field.name] = values[field.name]
    return config(**arguments)


def _kind(hint: Any) -> type:
    """Take the `X` of `X | None`."""
    options = [option for option in get_args(hint) if option is not type(None)]
    return options[0] if options else hint  # type: ignore[no-any-return]
