"""Says why calls end with an error; of those that come in floods, once a second."""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from bosal_decoding.errors import DecodingError
from bosal_server.call import Call
from bosal_server.errors import ServerError
from bosal_server.security.caller import current_caller

log = logging.getLogger(__name__)

# Who is overloaded has better to do than to write a line for each call it turns away, and a
# stranger without a key must not fill the disk.
_SECONDS_BETWEEN: Final = 1.0
_SUMMED_CODES: Final = frozenset({"RESOURCE_EXHAUSTED", "UNAUTHENTICATED"})
# The name of a field may be a client's own, as long as its request.
_MAX_FIELD: Final = 120


class RefusalLog:
    """Belongs to one event loop. An error's message may quote a prompt and is not logged."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def note(self, call: Call, method: str, error: DecodingError | ServerError) -> None:
        """Log a call, or count it towards the next line of its reason."""
        unsaid = 0
        if error.code in _SUMMED_CODES:
            now = self._clock()
            if now - self._last.get(error.reason, -_SECONDS_BETWEEN) < _SECONDS_BETWEEN:
                self._unsaid[error.reason] = self._unsaid.get(error.reason, 0) + 1
                return
            self._last[error.reason] = now
            unsaid = self._unsaid.pop(error.reason, 0)
        facts: dict[str, object] = {"method": method, "code": error.code, "reason": error.reason}
        if error.field:
            facts["field"] = error.field[:_MAX_FIELD]
        if key := getattr(error, "key_name", "") or current_caller.get().name:
            facts["key"] = key
        said = " ".join(map(str, facts.values()))
        if unsaid:
            facts["unsaid"] = unsaid
            said += f", and {unsaid} more before it"
        log.info("request %r: %s", call.request_id, said, extra=facts)
