"""Errors of callers who may not, or not so much.

ServerError
├── Unauthenticated
│   ├── KeyMissing
│   ├── KeyInvalid
│   └── KeyExpired
├── PermissionDenied
├── PriorityTooHigh
├── QuotaExceeded
└── QuotaTooSmall
"""

from collections.abc import Iterable

from bosal_server.errors import ServerError


class Unauthenticated(ServerError):
    """Raised when a call does not say whose it is."""

    reason = "UNAUTHENTICATED"
    code = "UNAUTHENTICATED"


class KeyMissing(Unauthenticated):
    """Raised when a call brings no key."""

    reason = "KEY_MISSING"

    def __init__(self) -> None:
        super().__init__("this server wants an API key: metadata `authorization: Bearer KEY`")


class KeyInvalid(Unauthenticated):
    """Raised when a key is not one of this server's."""

    reason = "KEY_INVALID"

    def __init__(self) -> None:
        super().__init__("the API key is not one of this server's")


class KeyExpired(Unauthenticated):
    """Raised when a key's time is over."""

    reason = "KEY_EXPIRED"

    def __init__(self, key_name: str) -> None:
        super().__init__("the API key has expired")
        # For the log: the caller is not told whose key it found.
        self.key_name = key_name


class PermissionDenied(ServerError):
    """Raised when a key is not for the method it is used for."""

    reason = "SCOPE_MISSING"
    code = "PERMISSION_DENIED"

    def __init__(self, method: str, scopes: Iterable[str], key_name: str) -> None:
        wanted = " or ".join(sorted(scopes)) or "no key has"
        super().__init__(
            f"the API key may not call {method}: it lacks the scope {wanted}",
            metadata={"method": method, "scopes": ",".join(sorted(scopes))},
        )
        self.key_name = key_name


class PriorityTooHigh(ServerError):
    """Raised when a request asks for a priority its key may not ask for."""

    reason = "PRIORITY_TOO_HIGH"
    code = "PERMISSION_DENIED"

    def __init__(self, asked: str, most: str) -> None:
        super().__init__(
            f"the API key may ask for priority {most} at most, not {asked}",
            field="priority",
            metadata={"asked": asked, "most": most},
        )


class QuotaExceeded(ServerError):
    """Raised when a key has used up what it may use for now."""

    reason = "QUOTA_EXCEEDED"
    code = "RESOURCE_EXHAUSTED"

    def __init__(self, quota: str, limit: int, retry_after: float) -> None:
        super().__init__(
            f"the API key's quota of {limit} {quota} is used up; try again in {retry_after:.1f} s",
            metadata={"quota": quota, "limit": str(limit)},
        )
        self.retry_after = retry_after


class QuotaTooSmall(ServerError):
    """Raised when a request is larger than its key's quota can ever be."""

    reason = "QUOTA_TOO_SMALL"
    code = "INVALID_ARGUMENT"

    def __init__(self, quota: str, limit: int, needed: int, field: str) -> None:
        super().__init__(
            f"the request may take {needed} {quota}; the API key has {limit}",
            field=field,
            metadata={"quota": quota, "limit": str(limit), "needed": str(needed)},
        )
