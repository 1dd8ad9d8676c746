"""The call that runs in this context: what its log lines, its request and its trace share."""

from contextvars import ContextVar
from time import monotonic
from uuid import uuid4


class Call:
    """A client's call, from its arrival to its answer."""

    __slots__ = ("_request_id", "arrival", "has_run")

    def __init__(self, request_id: str = "", arrival: float | None = None) -> None:
        """Without an id of the client's it has one of its own from when it is first asked for.

        It arrives now, unless the clock of time.monotonic is given for it.
        """
        self._request_id = request_id
        self.arrival = monotonic() if arrival is None else arrival
        # Whether its request went to the engine; who follows it there tells its end.
        self.has_run = False

    @property
    def request_id(self) -> str:
        if not self._request_id:
            self._request_id = uuid4().hex
        return self._request_id


# None: no client called, as in a warm-up.
current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def request_id() -> str:
    """Return the id of this context's call; a new one outside of any."""
    call = current_call.get()
    return uuid4().hex if call is None else call.request_id
