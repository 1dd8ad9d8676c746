"""Recipes as the command line names them: known to the server, or a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bosal_lab.evaluation_errors import ArmError

__all__ = ["read_recipe"]

_ENDS = (".yaml", ".yml", ".json")


def read_recipe(name: str) -> str | Mapping[str, Any]:
    """Return a name as it is, a file as the document it holds, named after it if it has no name."""
    if not name.endswith(_ENDS):
        return name
    path = Path(name)
    try:
        # YAML reads JSON too.
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArmError(f"recipe file {path}: {error}") from error
    if not isinstance(document, dict):
        raise ArmError(f"recipe file {path} holds no recipe")
    return {"name": path.stem} | document
