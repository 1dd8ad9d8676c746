"""Runs other people's code without waiting for it for ever."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TypeVar

import torch

Result = TypeVar("Result")
# A job, and where its result or its error goes.
_Job = tuple[Callable[[], object], SimpleQueue[tuple[object, BaseException | None]]]


class Overtime(Exception):
    """Raised when work was not done in time, or work before it still is not."""


class Watchdog:
    """A thread for work that may never end. Calls from several threads take turns.

    Python cannot end a thread: after overtime every call is refused until the late one returns.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._late: SimpleQueue[tuple[object, BaseException | None]] | None = None
        self._thread: Thread | None = None
        self._turn = Lock()

    def run(self, work: Callable[[], Result], seconds: float) -> Result:
        """Return what the work returns, and raise what it raises.

        Raises:
            Overtime: it took longer than that.
        """
        with self._turn:
            if self._late is not None:
                if self._late.empty():
                    raise Overtime("an earlier call has not returned yet")
                self._late = None
            if self._thread is None:
                self._thread = Thread(target=_work, args=(self._jobs,), name=self._name)
                self._thread.daemon = True
                self._thread.start()
            outcome: SimpleQueue[tuple[object, BaseException | None]] = SimpleQueue()
            self._jobs.put((work, outcome))
            try:
                result, error = outcome.get(timeout=seconds)
            except Empty:
                self._late = outcome
                raise Overtime(f"it took longer than {seconds:g} s") from None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # what the work returned

    def close(self) -> None:
        """Let the thread end once it is idle."""
        self._jobs.put(None)
        self._thread = None


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    with torch.inference_mode():
        while (job := jobs.get()) is not None:
            work, outcome = job
            try:
                outcome.put((work(), None))
            except BaseException as error:
                outcome.put((None, error))
            # What a job held is not kept until the next one comes.
            del job, work, outcome
