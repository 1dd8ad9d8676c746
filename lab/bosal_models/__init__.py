"""The small models shipped with the project, one folder each, in plain Hugging Face format."""

from __future__ import annotations

from pathlib import Path

__all__ = ["UnknownModelError", "names", "path"]


class UnknownModelError(KeyError):
    """Raised when no shipped model has that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no shipped model {name!r}; known: {', '.join(names())}")

    def __str__(self) -> str:
        return str(self.args[0])


def names() -> list[str]:
    """Return the names of the shipped models, sorted."""
    root = Path(__file__).parent
    return sorted(config.parent.name for config in root.glob("*/config.json"))


def path(name: str) -> Path:
    """Return the folder of a shipped model."""
    if name not in names():
        raise UnknownModelError(name)
    return Path(__file__).parent / name
