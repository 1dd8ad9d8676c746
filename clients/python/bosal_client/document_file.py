"""Files that a command line names: read, or written, or refused on one line."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

__all__ = ["read_document", "read_text", "writing"]


def read_document(file: Path) -> Mapping[str, Any]:
    """Return a file's mapping of names to values; its suffix says what it is written in."""
    text = read_text(file)
    document = _json(file, text) if file.suffix == ".json" else _yaml(file, text)
    if not isinstance(document, Mapping):
        raise typer.BadParameter(f"{file}: not a mapping of names to values")
    return document


def read_text(file: Path, flag: str | None = None) -> str:
    """Return a file's text; `flag` is the option that names it."""
    try:
        return file.read_bytes().decode()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint=flag) from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"{file} is not UTF-8 (byte {error.start})", param_hint=flag
        ) from error


@contextmanager
def writing(file: Path, flag: str) -> Iterator[None]:
    """Refuse a file that cannot be written by the option that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise typer.BadParameter(f"cannot write {file}: {reason}", param_hint=flag) from error


def _json(file: Path, text: str) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                # A reader would pass over it: the first of its two values would be lost.
                raise ValueError(f"the key {key!r:.60} is given twice")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except ValueError as error:
        raise typer.BadParameter(f"{file}: {error}") from None


def _yaml(file: Path, text: str) -> Any:
    try:
        import yaml

        from bosal_client.core_yaml import read_yaml
    except ModuleNotFoundError:
        raise typer.BadParameter(
            "reading YAML needs pyyaml (pip install pyyaml); a .json file does not"
        ) from None
    try:
        return read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{file}: {error}") from None
