"""The call that runs in this context: what its log lines, its request and its trace share."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from uuid import uuid4


@dataclass(slots=True)
class Call:
    """A client's call, from its arrival to its answer."""

    request_id: str
    # On the clock of time.monotonic.
    arrival: float = field(default_factory=monotonic)
    # Whether its request went to the engine; who follows it there tells its end.
    has_run: bool = False


# None: no client called, as in a warm-up.
current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def request_id() -> str:
    """Return the id of this context's call; a new one outside of any."""
    call = current_call.get()
    return uuid4().hex if call is None else call.request_id
