"""What can be wrong with a constraint.

InvalidConstraint             the constraint cannot be honoured as it stands
├── ConstraintSyntax          its text cannot be read
├── ConstraintUnsupported     it uses what the backend cannot enforce
├── ConstraintUnsatisfiable   no text satisfies it
├── ConstraintTooLarge        it exceeds a limit on its size
├── ConstraintNeedsTokens     its shortest completion is longer than the output may be
├── CompileTimeout            it took too long to compile, or too much memory
├── CompileQueueFull          too many constraints wait to be compiled
└── BackendMissing            the named backend is not installed
"""

from collections.abc import Sequence

from bosal_decoding.errors import DecodingError, shorten


class InvalidConstraint(DecodingError):
    """Raised when a constraint cannot be honoured; the root of this room."""

    reason = "INVALID_CONSTRAINT"


class ConstraintSyntax(InvalidConstraint):
    """Raised when a regex, schema or grammar cannot be read."""

    reason = "CONSTRAINT_SYNTAX"


class ConstraintUnsupported(InvalidConstraint):
    """Raised when a constraint uses what its backend would have to ignore."""

    reason = "CONSTRAINT_UNSUPPORTED"

    def __init__(
        self, what: str, *, keywords: Sequence[str] = (), field: str | None = None
    ) -> None:
        super().__init__(what, field=field, metadata={"keywords": ",".join(keywords)[:500]})
        self.keywords = tuple(keywords)


class ConstraintUnsatisfiable(InvalidConstraint):
    """Raised when no text at all satisfies a constraint."""

    reason = "CONSTRAINT_UNSATISFIABLE"


class ConstraintTooLarge(InvalidConstraint):
    """Raised when a constraint exceeds a limit; the message has both numbers."""

    reason = "CONSTRAINT_TOO_LARGE"
    code = "RESOURCE_EXHAUSTED"


class ConstraintNeedsTokens(InvalidConstraint):
    """Raised when the shortest completion found does not fit the output."""

    reason = "CONSTRAINT_NEEDS_TOKENS"

    def __init__(self, needed: int, max_tokens: int) -> None:
        super().__init__(
            f"is {max_tokens}, but the shortest text found for the constraint has {needed} tokens",
            field="max_tokens",
            metadata={"needed": str(needed), "max_tokens": str(max_tokens)},
        )


class CompileTimeout(InvalidConstraint):
    """Raised when compiling a constraint took too long or too much memory."""

    reason = "CONSTRAINT_COMPILE_TIMEOUT"
    code = "DEADLINE_EXCEEDED"


class CompileQueueFull(InvalidConstraint):
    """Raised when as many constraints wait to be compiled as may wait."""

    reason = "CONSTRAINT_QUEUE_FULL"
    code = "RESOURCE_EXHAUSTED"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} constraints are waiting to be compiled; try again later")
        self.retry_after = 1.0


class BackendMissing(InvalidConstraint):
    """Raised when the package of a named backend is not installed."""

    reason = "CONSTRAINT_BACKEND_MISSING"
    code = "FAILED_PRECONDITION"

    def __init__(self, backend: str, extra: str) -> None:
        super().__init__(
            f"backend {shorten(backend)} is not installed here: pip install 'bosal[{extra}]'",
            field="backend",
        )
