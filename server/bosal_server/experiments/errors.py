"""Errors of experiments.

ServerError
├── InvalidExperiment       a document, or what is asked of an experiment, is wrong
├── UnknownExperiment
├── ExperimentExists
├── WrongState              the experiment's state does not allow it
├── StaleEtag               it has changed since it was read
├── GuardrailBroken         it would be paused again at once
└── PromotionBlocked        the report warns, and no reason is given why it should not count
"""

from collections.abc import Iterable

from bosal_decoding.errors import shorten, suggestion
from bosal_server.errors import ServerError


class InvalidExperiment(ServerError):
    """Raised when an experiment, or a request about one, cannot be as it stands."""

    reason = "INVALID_EXPERIMENT"
    code = "INVALID_ARGUMENT"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", field=field)

    @classmethod
    def unknown(cls, field: str, kind: str, name: str, known: Iterable[str]) -> "InvalidExperiment":
        """Say that there is no such thing, and what was probably meant."""
        return cls(field, f"no {kind} is called {shorten(name)}, {suggestion(name, known)}")


class UnknownExperiment(ServerError):
    """Raised when a request names an experiment this server does not have."""

    reason = "UNKNOWN_EXPERIMENT"
    code = "NOT_FOUND"

    def __init__(self, name: str, known: Iterable[str], *, field: str = "name") -> None:
        super().__init__(
            f"no experiment is called {shorten(name)}, {suggestion(name, known)}",
            field=field,
            metadata={"experiment": name[:200]},
        )


class ExperimentExists(ServerError):
    """Raised when an experiment of that name was made by another request."""

    reason = "EXPERIMENT_EXISTS"
    code = "ALREADY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"an experiment called '{name}' exists already",
            field="name",
            metadata={"experiment": name},
        )


class WrongState(ServerError):
    """Raised when the state of an experiment does not allow what is asked."""

    reason = "WRONG_STATE"
    code = "FAILED_PRECONDITION"

    def __init__(self, name: str, state: str, action: str, allowed: Iterable[str]) -> None:
        super().__init__(
            f"experiment '{name}' is {state}; to {action} it must be {' or '.join(allowed)}",
            metadata={"experiment": name, "state": state},
        )


class StaleEtag(ServerError):
    """Raised when an experiment has changed since its etag was read."""

    reason = "STALE_ETAG"
    code = "ABORTED"

    def __init__(self, name: str, given: str, current: str) -> None:
        super().__init__(
            f"experiment '{name}' has changed: its etag is {current}, not {shorten(given)}; "
            "read it again",
            field="change.etag",
            metadata={"experiment": name, "etag": current},
        )


class GuardrailBroken(ServerError):
    """Raised when an experiment may only go on if the harm that is shown is acknowledged."""

    reason = "GUARDRAIL_BROKEN"
    code = "FAILED_PRECONDITION"

    def __init__(self, name: str, harms: Iterable[object], guardrails: Iterable[str]) -> None:
        names = ", ".join(guardrails)
        super().__init__(
            f"experiment '{name}': {'; '.join(map(str, harms))}; it would be paused again at once. "
            f"Acknowledge {names} to go on in spite of that, begin a new phase, or stop it",
            field="acknowledged_guardrails",
            metadata={"experiment": name, "guardrails": names},
        )


class PromotionBlocked(ServerError):
    """Raised when a variant may only be promoted with a reason why warnings do not count."""

    reason = "PROMOTION_BLOCKED"
    code = "FAILED_PRECONDITION"

    def __init__(self, name: str, warnings: Iterable[str]) -> None:
        super().__init__(
            f"experiment '{name}': {'; '.join(warnings)}; give override_reason to promote anyway",
            field="override_reason",
            metadata={"experiment": name},
        )
