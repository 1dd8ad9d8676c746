"""bosal.toml: every setting under its name, checked as strictly as a flag."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from bosal_server.config import InvalidConfig
from bosal_server.settings import Setting

NAME = "bosal.toml"


def read(path: Path, settings: Sequence[Setting]) -> dict[str, Any]:
    """Return what a file sets, by name; every value is of its setting's type and range.

    Raises:
        InvalidConfig: the file cannot be read, or a key or a value is wrong; names it.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidConfig(f"{path}: not TOML: {error}") from None
    return check(document, settings, f"{path}: ")


def check(document: Mapping[str, Any], settings: Sequence[Setting], where: str) -> dict[str, Any]:
    """Return plain values by name, every one of its setting's type and range.

    Raises:
        InvalidConfig: a key or a value is wrong; names it behind `where`.
    """
    known = {one.name: one for one in settings}
    values = {}
    for key, value in document.items():
        if key not in known:
            raise InvalidConfig(f"{where}there is no setting '{key}'{_hint(key, known)}")
        values[key] = _checked(value, known[key], f"{where}{key}")
    return values


def _checked(value: Any, one: Setting, where: str) -> Any:
    if one.is_list:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidConfig(f"{where}: must be a list of texts")
        return value
    if one.kind is bool or isinstance(value, bool):
        if one.kind is not bool or not isinstance(value, bool):
            raise InvalidConfig(f"{where}: must be {_wanted(one)}, not {_found(value)}")
        return value
    expected = (int, float) if one.kind is float else int if one.kind is int else str
    if not isinstance(value, expected):
        raise InvalidConfig(f"{where}: must be {_wanted(one)}, not {_found(value)}")
    if issubclass(one.kind, Enum):
        names = [str(member.value) for member in one.kind]
        match = next((name for name in names if name.lower() == str(value).lower()), None)
        if match is None:
            raise InvalidConfig(f"{where}: must be one of {', '.join(names)}, not '{value}'")
        return match
    if isinstance(value, str):
        is_there = {"folder": Path.is_dir, "file": Path.is_file}.get(one.must_be or "")
        if is_there is not None and not is_there(Path(value)):
            raise InvalidConfig(f"{where}: there is no {one.must_be} '{value}'")
    if isinstance(value, int | float):
        # Also refuses NaN.
        if not (one.minimum is None or value >= one.minimum):
            raise InvalidConfig(f"{where}: is {value}; it must be at least {one.minimum}")
        if not (one.maximum is None or value <= one.maximum):
            raise InvalidConfig(f"{where}: is {value}; it must be at most {one.maximum}")
    return value


def _wanted(one: Setting) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(one.kind, "a text")


def _found(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, Mapping) else repr(value)[:80]


def _hint(key: str, known: Mapping[str, Setting]) -> str:
    near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
