"""The one thread that writes what happens, many records to a commit."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from bosal_server.database import Database, DatabaseUnavailable
from bosal_server.experiments.records import Record

__all__ = ["Writer"]

log = logging.getLogger(__name__)

# Records that may wait; more mean that the disk does not keep up.
_MAX_WAITING = 20_000
_MAX_BATCH = 4000
# How long a record waits for others to share its commit: one that somebody waits for, and others.
_LINGER_SECONDS = 0.005
_PATIENCE_SECONDS = 0.1
_RETRY_SECONDS = 0.5
_IDLE_SECONDS = 60.0


@dataclass(slots=True)
class _Waiting:
    """A record and who waits for it to be on disk; None: nobody."""

    record: Record
    answer: Future[Any] | None = field(default=None)


@dataclass(slots=True)
class _Mark:
    """Is answered when what was queued before it has been tried; None: nobody waits any more."""

    answer: Future[None] | None


class Writer:
    """Takes records from any thread; writes them in order, each batch in one transaction."""

    def __init__(
        self,
        database: Database,
        post: Callable[[Connection, Sequence[Record]], Sequence[Any]],
    ) -> None:
        self._database = database
        self._post = post
        self._waiting: deque[_Waiting | _Mark] = deque()
        self._has_work = threading.Event()
        self._is_urgent = threading.Event()
        self._is_failing = False
        self._is_closing = False
        # Records given up: the queue was full while the store failed, or they broke a commit.
        self.num_lost = 0
        self.num_written = 0
        self._thread = threading.Thread(target=self._run, name="bosal-experiments", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end."""
        self._is_closing = True
        self._is_urgent.set()
        self._has_work.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_accepting(self) -> bool:
        """Whether what is offered now can be expected to reach the disk."""
        return not (self._is_failing or self._is_closing) and len(self._waiting) < _MAX_WAITING

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def offer(self, record: Record) -> bool:
        """Queue a record that nobody waits for; False: it will not be written."""
        if not self.is_accepting:
            return False
        self._add(_Waiting(record))
        return True

    def follow(self, record: Record) -> None:
        """Queue what belongs to a record that was queued before; kept while the store fails."""
        if len(self._waiting) < 2 * _MAX_WAITING and not self._is_closing:
            self._add(_Waiting(record))
        else:
            self.num_lost += 1

    async def submit(self, record: Record) -> Any:
        """Return the record's answer once it is on disk.

        Raises:
            DatabaseUnavailable: it was not written now; the same again is safe.
        """
        if not self.is_accepting:
            raise DatabaseUnavailable("outcomes cannot be kept at the moment")
        answer: Future[Any] = Future()
        self._add(_Waiting(record, answer))
        return await asyncio.wrap_future(answer)

    async def flush(self) -> None:
        """Return once what was queued before is on disk, or cannot be brought there now."""
        if self._is_failing or self._is_closing:
            return
        answer: Future[None] = Future()
        self._add(_Mark(answer))
        await asyncio.wrap_future(answer)

    def _add(self, waiting: _Waiting | _Mark) -> None:
        self._waiting.append(waiting)
        if waiting.answer is not None or len(self._waiting) >= _MAX_BATCH:
            self._is_urgent.set()
        if not self._has_work.is_set():
            self._has_work.set()

    def _run(self) -> None:
        while True:
            self._has_work.wait(_IDLE_SECONDS)
            if not self._waiting:
                if self._is_closing:
                    return
                self._has_work.clear()
                # What was added between the look and the clearing set it before.
                if self._waiting:
                    self._has_work.set()
                continue
            self._is_urgent.wait(_PATIENCE_SECONDS)
            if not self._is_closing and len(self._waiting) < _MAX_BATCH:
                time.sleep(_LINGER_SECONDS)
            self._is_urgent.clear()
            taken = [self._waiting.popleft() for _ in range(min(_MAX_BATCH, len(self._waiting)))]
            if self._waiting:
                self._is_urgent.set()
            for one in taken:
                # Whoever gives up from here on cannot take the answer away while it is set.
                if one.answer is not None and not one.answer.set_running_or_notify_cancel():
                    one.answer = None
            if batch := [one for one in taken if isinstance(one, _Waiting)]:
                self._write(batch)
            for mark in taken:
                if isinstance(mark, _Mark) and mark.answer is not None:
                    mark.answer.set_result(None)

    def _write(self, batch: list[_Waiting]) -> None:
        try:
            answers = self._commit([one.record for one in batch])
        except DatabaseUnavailable as error:
            self._fail(batch, error)
            return
        except Exception:
            if len(batch) > 1:
                # One of them cannot be written; the others must not suffer for it.
                log.exception("%d records could not be written together", len(batch))
                half = len(batch) // 2
                self._write(batch[:half])
                self._write(batch[half:])
                return
            log.exception("a record could not be written")
            self.num_lost += 1
            self._answer(batch, [DatabaseUnavailable("the record could not be written")])
            return
        if self._is_failing:
            log.warning("experiments can be written again")
            self._is_failing = False
        self.num_written += len(batch)
        self._answer(batch, answers)

    def _commit(self, records: Sequence[Record]) -> Sequence[Any]:
        with self._database.write() as connection:
            return self._post(connection, records)

    def _fail(self, batch: list[_Waiting], error: DatabaseUnavailable) -> None:
        """Tell those who wait; keep what nobody would send again."""
        if not self._is_failing:
            log.error("experiments cannot be written, the control is served: %s", error)
        self._is_failing = True
        self._answer(
            [one for one in batch if one.answer is not None],
            [DatabaseUnavailable(str(error)) for _ in batch],
        )
        kept = [one for one in batch if one.answer is None]
        if self._is_closing:
            self.num_lost += len(kept)
            return
        self._waiting.extendleft(reversed(kept))
        time.sleep(_RETRY_SECONDS)
        if not self._waiting:
            # Nothing is left to try with: the next request is the probe.
            self._is_failing = False

    @staticmethod
    def _answer(batch: Sequence[_Waiting], answers: Sequence[Any]) -> None:
        for one, answer in zip(batch, answers, strict=False):
            if one.answer is None:
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)
