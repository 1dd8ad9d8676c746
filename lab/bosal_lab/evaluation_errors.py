"""Errors of the evaluation, below the lab's root.

LabError
└── EvaluationError
    ├── PromptError          a prompt file holds something that cannot be asked
    ├── ArmError             an arm cannot be run or compared as named
    ├── ResultsError         a file is not a results database
    ├── SuiteVersionError    a results database belongs to another version of the suite
    ├── ServerLostError      the server stopped answering in the middle
    └── ArmChangedError      an arm is no longer what its results were recorded with
"""

from collections.abc import Iterable
from difflib import get_close_matches

from bosal_lab.errors import LabError

__all__ = [
    "ArmChangedError",
    "ArmError",
    "EvaluationError",
    "PromptError",
    "ResultsError",
    "ServerLostError",
    "SuiteVersionError",
]


class EvaluationError(LabError):
    """Raised when an evaluation cannot go on; `exit_code` is what the command ends with."""

    exit_code = 2


class PromptError(EvaluationError):
    """Raised when a prompt file, or a line of it counted from 1, cannot be read as items."""

    def __init__(self, path: object, line: int | None, why: str) -> None:
        place = "" if line is None else f", line {line}"
        super().__init__(f"{path}{place}: {why}")


class ArmError(EvaluationError):
    """Raised when an arm, a metric or a suite is unknown or cannot be used as asked."""

    @classmethod
    def unknown(cls, what: str, name: str, known: Iterable[str]) -> "ArmError":
        """Name the nearest known one, or all."""
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
        return cls(f"no {what} is named {name!r}; {hint}")


class ResultsError(EvaluationError):
    """Raised when a file is missing, damaged, or no results database of this program."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path}: {why}")


class SuiteVersionError(EvaluationError):
    """Raised when a results database was made with another suite or another version of it."""

    def __init__(self, path: object, recorded: str, wanted: str) -> None:
        super().__init__(
            f"{path} holds answers to suite {recorded}, this is {wanted}; "
            "their scores do not mix: name another file"
        )


class ServerLostError(EvaluationError):
    """Raised when the server stops answering; every answer received is stored."""

    exit_code = 69

    def __init__(self, path: object, done: int, wanted: int, why: str) -> None:
        super().__init__(
            f"the server stopped answering ({why}); {done} of {wanted} answers are in {path}: "
            "the same command goes on from there"
        )


class ArmChangedError(EvaluationError):
    """Raised when an arm would go on with another model, recipe or seed than it began with."""

    def __init__(self, arm: str, what: str, recorded: object, found: object) -> None:
        super().__init__(
            f"arm {arm} was recorded with {what} {recorded}, it would go on with {found}; "
            "name another results file, or restore what was recorded"
        )
