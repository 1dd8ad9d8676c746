"""Documents that people keep in YAML or JSON files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

__all__ = ["read_document"]


def read_document(file: Path) -> Mapping[str, Any]:
    """Return a file's mapping of names to values; its suffix says what it is written in."""
    text = file.read_text(encoding="utf-8")
    document = _json(file, text) if file.suffix == ".json" else _yaml(file, text)
    if not isinstance(document, Mapping):
        raise typer.BadParameter(f"{file}: not a mapping of names to values")
    return document


def _json(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{file}: {error}") from None


def _yaml(file: Path, text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise typer.BadParameter(
            "reading YAML needs pyyaml (pip install pyyaml); a .json file does not"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{file}: {error}") from None
