"""The word lists the world is made from."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any


@cache
def read_table(name: str) -> dict[str, Any]:
    """Read one of the data files."""
    text = resources.files("bosal_lab").joinpath("wordings", f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


def pool(name: str) -> tuple[str, ...]:
    """Return a list of values or of name parts."""
    for table in ("values", "names"):
        if name in read_table(table):
            return tuple(read_table(table)[name])
    raise KeyError(name)
