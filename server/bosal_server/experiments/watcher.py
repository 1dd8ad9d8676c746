"""Looks after running experiments: snapshots, guardrails, failures, retention."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from bosal_server.database import Database
from bosal_server.errors import ServerError
from bosal_server.experiments import lifecycle
from bosal_server.experiments.catalogue import Catalogue, Change
from bosal_server.experiments.experiment import Experiment, State
from bosal_server.experiments.reporter import Reporter
from bosal_server.experiments.retention import Expired
from bosal_server.experiments.writer import Writer

__all__ = ["Watcher"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_EXPIRY_SECONDS = 3600.0
_FAILURE_SECONDS = 60.0
# Whom the audit names for what the server does by itself.
_SERVER = "server"


class Watcher:
    """Does by itself what must not wait for a person."""

    def __init__(
        self,
        database: Database,
        catalogue: Catalogue,
        reporter: Reporter,
        writer: Writer,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._reporter = reporter
        self._writer = writer
        self._clock = clock
        self._failures: dict[tuple[str, str], deque[float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # By name of each experiment that ran at the last look: whether its shares are wrong.
        self.mismatched: Mapping[str, bool] = {}

    def start(self) -> None:
        self._begin(self._watch())

    async def close(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def note_failure(self, experiment: Experiment, variant: str) -> None:
        """Count a failed request; too many within a minute pause the experiment."""
        limit = experiment.max_failures_per_minute
        if not limit:
            return
        now = time.monotonic()
        failures = self._failures.setdefault((experiment.name, variant), deque())
        failures.append(now)
        while failures[0] < now - _FAILURE_SECONDS:
            failures.popleft()
        if len(failures) >= limit:
            failures.clear()
            reason = f"variant '{variant}' failed {limit} times within a minute"
            self._begin(self._pause(experiment, reason))

    async def look(self) -> None:
        """Bring in what others changed; keep snapshots; pause what breaks a guardrail."""
        await asyncio.to_thread(self._catalogue.refresh)
        mismatched = {}
        for entry in self._catalogue:
            experiment = entry.experiment
            if experiment.state is not State.RUNNING:
                continue
            try:
                found = await asyncio.to_thread(self._reporter.look, entry, self._clock())
            except ServerError:
                # The database's trouble is that of all.
                raise
            except Exception:
                log.exception("cannot look after experiment '%s'", experiment.name)
                continue
            mismatched[experiment.name] = found.is_mismatched
            if found.harms:
                await self._pause(experiment, "; ".join(map(str, found.harms)))
        self.mismatched = mismatched

    async def expire(self) -> None:
        """Delete what has been kept for as long as it may be."""
        now = self._clock()
        for entry in self._catalogue:
            expired = Expired(self._database, entry, now)
            while expiry := await asyncio.to_thread(expired.next):
                await self._writer.submit(expiry)

    async def _watch(self) -> None:
        next_expiry = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.look()
                if time.monotonic() >= next_expiry:
                    next_expiry = time.monotonic() + _EXPIRY_SECONDS
                    await self.expire()
            except ServerError as error:
                log.warning("cannot look after experiments: %s", error)
            except Exception:
                log.exception("cannot look after experiments")

    async def _pause(self, experiment: Experiment, reason: str) -> None:
        log.warning("experiment '%s' is paused: %s", experiment.name, reason)
        change = Change(action="PAUSE", actor=_SERVER, reason=reason, etag=experiment.etag)
        with suppress(ServerError):  # Somebody else was first.
            await asyncio.to_thread(
                self._catalogue.change,
                experiment.name,
                lambda known: lifecycle.paused(known, reason),
                change,
                self._clock(),
            )

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        # Kept, so that it is not collected while it runs.
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
