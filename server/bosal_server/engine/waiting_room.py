"""How many requests wait, shared between the engine's thread and those that submit."""

from threading import Lock
from time import monotonic

from bosal_server.errors import QueueFull

_MIN_RETRY_SECONDS = 0.1
_MAX_RETRY_SECONDS = 30.0
_SMOOTHING = 0.2


class WaitingRoom:
    """Counts requests between submission and admission, and how quickly they are admitted."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._lock = Lock()
        self._num_waiting = 0
        self._interval = 0.5  # seconds between admissions while others wait, smoothed
        self._last_admission: float | None = None

    def __len__(self) -> int:
        return self._num_waiting

    def enter(self) -> None:
        """Let a request wait.

        Raises:
            QueueFull: as many wait as may wait.
        """
        with self._lock:
            if self._num_waiting >= self._max_waiting:
                # Half the queue should have moved on by then.
                wait = self._interval * max(self._max_waiting, 1) / 2
                wait = min(max(wait, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS)
                raise QueueFull(max_waiting=self._max_waiting, retry_after=wait)
            self._num_waiting += 1

    def leave(self, *, was_admitted: bool) -> None:
        """Note that a request waits no more."""
        with self._lock:
            self._num_waiting -= 1
            if not was_admitted:
                return
            now = monotonic()
            if self._last_admission is not None and self._num_waiting:
                interval = now - self._last_admission
                self._interval += _SMOOTHING * (interval - self._interval)
            self._last_admission = now
