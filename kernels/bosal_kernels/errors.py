"""Errors of the kernels.

KernelError
├── InvalidSlotParams
├── InvalidCombineParams
└── InvalidTouchedTokens
"""

from typing import ClassVar


class KernelError(Exception):
    """Raised when the kernels are given what they cannot hold; the root of this part."""

    reason: ClassVar[str] = "KERNEL_ERROR"
    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.metadata: dict[str, str] = {}


class InvalidSlotParams(KernelError):
    """Raised when a choice's numbers cannot be stored in a slot."""

    reason = "INVALID_SLOT_PARAMS"


class InvalidCombineParams(KernelError):
    """Raised when a way to combine streams is not one."""

    reason = "INVALID_COMBINE_PARAMS"


class InvalidTouchedTokens(KernelError):
    """Raised when a list of touched tokens does not fit the slot or its vocabulary."""

    reason = "INVALID_TOUCHED_TOKENS"
