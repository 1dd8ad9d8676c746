"""Answers a file of requests, many at a time; a later run goes on where one was interrupted."""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bosal_client import errors, results
from bosal_client.aio import AsyncClient
from bosal_client.batch_file import Answers, BatchError, BatchRequest, read_requests
from bosal_client.identity import Identity
from bosal_client.requests import GenerationOptions

__all__ = ["Batch", "Outcome"]

# Errors of one request; the others go on.
_OF_ONE: Final = (
    errors.InvalidRequest,
    errors.NotFound,
    errors.Unimplemented,
    errors.DeadlineExceeded,
    errors.InternalError,
)
# How long a server may be away, to restart for example, before the run ends.
_PATIENCE_SECONDS: Final = 30.0
_SHORTEST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0

Outcome = results.Generation | errors.BosalError


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A file of requests, the file of their answers, and how to ask."""

    requests: Path
    answers: Path
    # For what a line leaves out.
    defaults: GenerationOptions
    # Requests under way at once.
    concurrency: int
    # Per request, in seconds.
    timeout: float | None = None

    def check(self, answers: Answers) -> tuple[int, int]:
        """Read every request before any is asked; count them, and those that are answered.

        Raises:
            BatchError: one is wrong, or not the one that was answered in its place.
        """
        done = [answers.has(request) for request in read_requests(self.requests, self.defaults)]
        return len(done), sum(done)

    async def run(
        self, server: str, answers: Answers, observe: Callable[[Outcome], None] = lambda _: None
    ) -> None:
        """Ask what is not answered yet; the order of the answers is that in which they come.

        Raises:
            Unavailable: the server is gone; what was answered is in the file.
        """
        pending = (
            request
            for request in read_requests(self.requests, self.defaults)
            if not answers.has(request)
        )
        identity = Identity.from_environment(os.environ)
        async with AsyncClient(server, **identity.options()) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.concurrency):
                        group.create_task(self._work(client, pending, answers, observe))
            except* (errors.BosalError, BatchError) as failures:
                # One is enough; the others say the same.
                raise failures.exceptions[0] from None

    async def _work(
        self,
        client: AsyncClient,
        pending: Iterator[BatchRequest],
        answers: Answers,
        observe: Callable[[Outcome], None],
    ) -> None:
        for request in pending:
            outcome: Outcome
            try:
                outcome = await self._ask(client, request)
            except _OF_ONE as error:
                outcome = error
            answers.add(request, outcome)
            observe(outcome)

    async def _ask(self, client: AsyncClient, request: BatchRequest) -> results.Generation:
        """Ask until the server has room; give it time to come back."""
        loop = asyncio.get_running_loop()
        give_up: float | None = None
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            try:
                return await client.generate(
                    request.prompt, timeout=self.timeout, **request.options
                )
            except errors.Overloaded as error:
                give_up, pause = None, _SHORTEST_PAUSE_SECONDS
                await asyncio.sleep(error.retry_after or 1.0)
            except (errors.Unavailable, errors.Cancelled):
                now = loop.time()
                give_up = give_up or now + _PATIENCE_SECONDS
                if now > give_up:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
