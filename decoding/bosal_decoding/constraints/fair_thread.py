"""A thread that works for many owners: in turn, and for a bounded share of the processor.

Who asks for much waits for itself: another owner's work comes next whatever is queued, and all
of it together leaves the processor to whoever else needs it.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Lock, Thread
from time import monotonic, thread_time
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

# Processor seconds that may be used at once before the share counts.
_BURST_SECONDS: Final = 0.01
# What one piece of work may make all others wait at most, however much it used.
_MAX_REST_SECONDS: Final = 2.0
# How often who rests looks whether anybody else still works.
_LOOK_SECONDS: Final = 0.1


class Allowance:
    """Processor time that may be used while others work: a share of what passes, some at once."""

    def __init__(
        self,
        share: float,
        is_wanted: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = monotonic,
        *,
        max_rest: float = _MAX_REST_SECONDS,
    ) -> None:
        """`share` is a part of one processor's; `is_wanted` says whether others work now."""
        self._share = share
        self.is_wanted = is_wanted
        self._max_rest = max_rest
        self._clock = clock
        self._lock = Lock()
        self._left = _BURST_SECONDS
        self._then = clock()

    def charge(self, seconds: float) -> float:
        """Take off what was used; return how long to rest before more may be."""
        with self._lock:
            now = self._clock()
            gained = (now - self._then) * self._share
            self._left = min(self._left + gained, _BURST_SECONDS) - seconds
            self._then = now
            owed = self._max_rest * self._share if self.is_wanted() else 0.0
            self._left = max(self._left, -owed)
            return max(-self._left / self._share, 0.0)


class FairThread:
    """Runs work that is handed to it, until it is closed; safe to share between threads."""

    def __init__(self, name: str, allowance: Allowance | None = None) -> None:
        """`allowance` bounds its processor time; threads may share one."""
        self._name = name
        self._allowance = allowance
        self._changed = Condition()
        # By owner, whose turn is next first.
        self._queues: OrderedDict[str, deque[tuple[Callable[[], Any], Future[Any]]]] = OrderedDict()
        self._is_closed = False
        self._thread: Thread | None = None

    def submit(self, work: Callable[[], Result], owner: str = "") -> Future[Result]:
        """Queue work behind what its owner has queued; the future has what comes of it.

        Cancelled before its turn, it leaves the queue.

        Raises:
            RuntimeError: it is closed.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._is_closed:
                raise RuntimeError(f"{self._name} is closed")
            self._queues.setdefault(owner, deque()).append((work, future))
            if self._thread is None:
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        future.add_done_callback(lambda done: self._drop(owner, done))
        return future

    def close(self) -> None:
        """Take nothing more; what is queued is cancelled, what runs goes on."""
        with self._changed:
            self._is_closed = True
            queued = [future for queue in self._queues.values() for _, future in queue]
            self._queues.clear()
            self._changed.notify()
        for future in queued:
            future.cancel()

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            started = thread_time()
            _do(*turn)
            del turn  # and what it holds
            if self._allowance is not None:
                self._rest(self._allowance, thread_time() - started)

    def _next(self) -> tuple[Callable[[], Any], Future[Any]] | None:
        """Return whose turn it is; None once the thread is closed."""
        with self._changed:
            while not self._queues and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return None
            owner, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[owner] = queue
            return turn

    def _drop(self, owner: str, future: Future[Any]) -> None:
        """Let go of what was cancelled before its turn."""
        if not future.cancelled():
            return
        with self._changed:
            queue = self._queues.get(owner)
            if queue is None:
                return
            for turn in queue:
                if turn[1] is future:
                    queue.remove(turn)
                    break
            if not queue:
                del self._queues[owner]

    def _rest(self, allowance: Allowance, used: float) -> None:
        """Rest for what was used, as long as others work."""
        until = monotonic() + allowance.charge(used)
        while (remaining := until - monotonic()) > 0 and allowance.is_wanted():
            with self._changed:
                if self._is_closed:
                    return
                self._changed.wait(min(remaining, _LOOK_SECONDS))


def _do(work: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
