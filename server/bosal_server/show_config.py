"""The effective configuration as text: a bosal.toml that says where each value comes from."""

import json
from enum import Enum
from pathlib import Path
from typing import Any

from bosal_server.masking import without_password
from bosal_server.options import SETTINGS, Origin, Resolved


def document(resolved: Resolved) -> str:
    """Return TOML; what is unset is a comment, passwords of URLs are masked."""
    read = f"# settings of {resolved.file}\n" if resolved.file else "# no file was read\n"
    lines = [read]
    for one in SETTINGS:
        value = resolved.values[one.name]
        origin = resolved.origins[one.name]
        if value is None:
            lines.append(f"# {one.name} is not set\n")
            continue
        lines.append(f"{one.name} = {_toml(value)}{_comment(origin, one.variable)}\n")
    return "".join(lines)


def _comment(origin: Origin, variable: str) -> str:
    if origin is Origin.DEFAULT:
        return ""
    return f"  # {variable}" if origin is Origin.VARIABLE else f"  # {origin}"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string.
        return json.dumps(without_password(value), ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
