"""Errors of the lab.

LabError
├── UnknownNameError
├── StageError
├── StorageError
└── DamagedFileError
"""

from __future__ import annotations

from collections.abc import Iterable


class LabError(Exception):
    """Raised when the lab cannot go on; the root of this tree."""


class UnknownNameError(LabError):
    """Raised when a model, genre or form of that name does not exist."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {what} {name!r}; known: {', '.join(sorted(known))}")


class StageError(LabError):
    """Raised when a stage of the build needs another that has not been run."""


class StorageError(LabError):
    """Raised when a stage's result cannot be written, for want of room say."""


class DamagedFileError(LabError):
    """Raised when a stage's file cannot be read back."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path} is damaged ({why}); delete it and build again")
