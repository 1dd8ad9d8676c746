"""Errors of the server. Each names its wire status as text, so nothing here imports gRPC.

ServerError
├── ModelError              the operator's: a model cannot be served
│   ├── ModelNotFound
│   ├── ModelCorrupt
│   └── ModelUnsupported
└── EngineError             a request's: it gets this answer
    ├── UnknownModel
    ├── RequestTooLarge
    ├── ExplanationTooLarge
    ├── RequestIdInUse
    ├── QueueFull
    ├── QueueTimeout
    ├── DeadlineUnreachable
    ├── DeadlineExceeded
    ├── RequestCancelled
    ├── EngineStopped
    └── InternalFault
"""

from collections.abc import Iterable
from typing import ClassVar


class ServerError(Exception):
    """Raised when the server cannot do what was asked; the root of its errors."""

    reason: ClassVar[str] = "INTERNAL"
    code: ClassVar[str] = "INTERNAL"

    def __init__(
        self, message: str, *, field: str | None = None, metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        self.metadata = metadata or {}


class ModelError(ServerError):
    """Raised when a model cannot be served; the message is for the operator."""

    reason = "MODEL_ERROR"
    code = "FAILED_PRECONDITION"


class ModelNotFound(ModelError):
    """Raised when a model's source is neither a directory with a model nor a known hub name."""

    reason = "MODEL_NOT_FOUND"
    code = "NOT_FOUND"

    def __init__(self, name: str, source: str, cause: str) -> None:
        super().__init__(
            f"model '{name}': nothing to load at '{source}': {cause}", metadata={"model": name}
        )


class ModelCorrupt(ModelError):
    """Raised when a file of a model cannot be read or does not fit the model."""

    reason = "MODEL_CORRUPT"

    def __init__(self, name: str, file: str, cause: str) -> None:
        super().__init__(
            f"model '{name}': file '{file}' is unusable: {cause}",
            metadata={"model": name, "file": file},
        )


class ModelUnsupported(ModelError):
    """Raised when a model cannot be served exactly."""

    reason = "MODEL_UNSUPPORTED"
    code = "UNIMPLEMENTED"

    def __init__(self, name: str, architecture: str, cause: str) -> None:
        super().__init__(
            f"model '{name}': {architecture} cannot be served exactly: {cause}",
            metadata={"model": name, "architecture": architecture},
        )


class EngineError(ServerError):
    """Raised when the engine cannot take or finish a request."""

    reason = "ENGINE_ERROR"


class UnknownModel(EngineError):
    """Raised when a request names a model that is not served."""

    reason = "UNKNOWN_MODEL"
    code = "NOT_FOUND"

    def __init__(self, model: str, served: Iterable[str]) -> None:
        # Here, not above: the package brings torch, and `serve --help` imports this file.
        from bosal_decoding.errors import shorten, suggestion

        super().__init__(
            f"no model is called {shorten(model)}, {suggestion(model, served)}",
            field="model",
            metadata={"model": model[:200]},
        )


class RequestTooLarge(EngineError):
    """Raised when a request could never be admitted, however long it waited."""

    reason = "REQUEST_TOO_LARGE"
    code = "INVALID_ARGUMENT"

    def __init__(
        self,
        *,
        what: str,
        needed: int,
        limit: int,
        prompt_tokens: int,
        max_tokens: int,
        num_streams: int = 1,
    ) -> None:
        prompts = f"prompt of {prompt_tokens} tokens"
        if num_streams > 1:
            prompts = f"a group of {num_streams} streams, {prompt_tokens} prompt tokens in all,"
        super().__init__(
            f"{prompts} with max_tokens {max_tokens} "
            f"needs {needed} {what}, of which there are {limit}",
            field="max_tokens",
            metadata={
                "needed": str(needed),
                "limit": str(limit),
                "prompt_tokens": str(prompt_tokens),
                "max_tokens": str(max_tokens),
            },
        )


class ExplanationTooLarge(EngineError):
    """Raised when one choice has more to be held against than there is memory for."""

    reason = "EXPLANATION_TOO_LARGE"
    code = "INVALID_ARGUMENT"

    def __init__(self, num_plans: int, limit: int) -> None:
        super().__init__(
            f"the recipe less each of its rules, and what it is compared with, make "
            f"{num_plans} plans to hold a choice against; this server has memory for {limit}",
            field="explain",
            metadata={"plans": str(num_plans), "limit": str(limit)},
        )


def check_shadows(num_plans: int, limit: int | None) -> None:
    """Refuse to explain a choice by more plans than a model has memory for.

    Raises:
        ExplanationTooLarge: it says how many there may be.
    """
    if limit is not None and num_plans > limit:
        raise ExplanationTooLarge(num_plans, limit)


class RequestIdInUse(EngineError):
    """Raised when a request of the same id is still inside the engine."""

    reason = "REQUEST_ID_IN_USE"
    code = "ALREADY_EXISTS"

    def __init__(self, request_id: str) -> None:
        super().__init__("a request of this id is being served", metadata={"id": request_id})


class QueueFull(EngineError):
    """Raised when as many requests wait as may wait."""

    reason = "QUEUE_FULL"
    code = "RESOURCE_EXHAUSTED"

    def __init__(self, *, waiting: str, limit: str, retry_after: float) -> None:
        super().__init__(
            f"{waiting} are already waiting, the limit is {limit}; "
            f"try again in {retry_after:.1f} s",
            metadata={"waiting": waiting, "limit": limit},
        )
        self.retry_after = retry_after


class QueueTimeout(EngineError):
    """Raised when a request could not have its first token within the limit any more."""

    reason = "QUEUE_TIMEOUT"
    code = "RESOURCE_EXHAUSTED"

    def __init__(self, limit: float, waited: float, retry_after: float) -> None:
        super().__init__(
            f"the request has waited {waited:.1f} s and was not admitted, the limit is {limit:g} s "
            f"to its first token; try again in {retry_after:.1f} s",
            metadata={"max_queue_seconds": f"{limit:g}"},
        )
        self.retry_after = retry_after


class DeadlineUnreachable(EngineError):
    """Raised at once when a request would still wait when its deadline comes."""

    reason = "DEADLINE_UNREACHABLE"
    code = "RESOURCE_EXHAUSTED"

    def __init__(self, wait: float, retry_after: float) -> None:
        super().__init__(
            f"the request would wait about {wait:.1f} s, longer than its deadline allows",
            metadata={"expected_wait": f"{wait:.1f}"},
        )
        self.retry_after = retry_after


class DeadlineExceeded(EngineError):
    """Raised when a request's deadline passed before it was finished."""

    reason = "DEADLINE_EXCEEDED"
    code = "DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__("the deadline passed before the request was finished")


class RequestCancelled(EngineError):
    """Raised when the caller cancelled the request."""

    reason = "CANCELLED"
    code = "CANCELLED"

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class EngineStopped(EngineError):
    """Raised when the engine is shutting down."""

    reason = "ENGINE_STOPPED"
    code = "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the engine is shutting down")


class InternalFault(EngineError):
    """Raised when the server failed at a request; the cause is in its log only."""

    reason = "INTERNAL"
    code = "INTERNAL"

    def __init__(self) -> None:
        super().__init__("the server failed while processing this request")
