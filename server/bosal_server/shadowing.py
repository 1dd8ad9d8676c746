"""Shadow variants: a share of the control's requests, run again when nobody waits for the engine.

A live request that comes in takes the engine back at once: the shadow is cancelled before the
request is submitted, and tried again later. What was tried too often is given up and counted.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from contextvars import Context
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import DecodingError
from bosal_decoding.streams import StreamModel
from bosal_server.divergence import Divergences
from bosal_server.engine.loop import EngineLoop
from bosal_server.engine.request import EngineRequest, FailedEvent, FinishedEvent, TokensEvent
from bosal_server.errors import ExplanationTooLarge, ServerError
from bosal_server.experiments.assignment import PPM
from bosal_server.experiments.enrolment import Assignment, Reason
from bosal_server.experiments.held_draws import HeldDraws
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.records import Pair, PairKind
from bosal_server.experiments.trial import Reply, scores
from bosal_server.generate_command import GenerateCommand
from bosal_server.live_traffic import LiveTraffic
from bosal_server.mailbox import Mailbox
from bosal_server.security.caller import Priority
from bosal_server.started import Started

__all__ = ["Shadowing", "is_sampled"]

log = logging.getLogger(__name__)

# Re-runs that may wait; more are given up.
_MAX_WAITING: Final = 256
_MAX_ATTEMPTS: Final = 5
# For how long nobody must have waited before a re-run begins.
_QUIET_SECONDS: Final = 0.05


class _Displaced(ServerError):
    """Raised when a live request has taken the engine back."""

    reason = "DISPLACED"
    code = "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("a live request came first")


@dataclass(slots=True, eq=False)
class _Job:
    """One answered request, to be run again under one shadow."""

    command: GenerateCommand
    control: Started
    exposed: Assignment
    reply: Reply
    # Place of the shadow among the experiment's sides.
    variant: int
    num_attempts: int = 0

    @property
    def assignment(self) -> Assignment:
        shadow = self.exposed.experiment.sides[self.variant]
        return replace(self.exposed, variant=shadow, exposure_id=b"")


class Shadowing:
    """Runs shadows one at a time; belongs to one event loop."""

    def __init__(
        self,
        *,
        accept: Callable[[GenerateCommand, Assignment], Awaitable[Started]],
        engine: EngineLoop,
        experiments: ExperimentManager,
        traffic: LiveTraffic,
        models: tuple[StreamModel, ...],
    ) -> None:
        self._accept = accept
        self._engine = engine
        self._experiments = experiments
        self._traffic = traffic
        self._models = models
        self._waiting: deque[_Job] = deque()
        self._numbers = count()
        self._worker: asyncio.Task[None] | None = None
        # The run that is on the engine, and what it waits for.
        self._running: tuple[str, Mailbox] | None = None
        traffic.on_request = self._make_way

    def close(self) -> None:
        """Forget what waits."""
        if self._worker is not None:
            self._worker.cancel()

    def after(
        self, exposed: Assignment, control: Started, command: GenerateCommand
    ) -> Callable[[Reply], None] | None:
        """Return what to do with a request's reply; None: it is not among those run again."""
        experiment = exposed.experiment
        is_analysed = exposed.reason is Reason.ASSIGNED and exposed.variant == experiment.control
        if not is_analysed or not is_sampled(exposed.exposure_id, experiment.shadow_share_ppm):
            return None

        def queue(reply: Reply) -> None:
            for index in range(len(experiment.variants), len(experiment.sides)):
                job = _Job(command, control, exposed, reply, index)
                if len(self._waiting) < _MAX_WAITING:
                    self._waiting.append(job)
                else:
                    self._give_up(job)
            if self._worker is None or self._worker.done():
                # What waits next is of other calls than this one.
                self._worker = asyncio.create_task(self._work(), context=Context())

        return queue

    def _make_way(self) -> None:
        """Take the engine back for a live request."""
        if self._running is not None:
            engine_id, mailbox = self._running
            self._running = None
            self._engine.cancel(engine_id)
            mailbox.put(FailedEvent(_Displaced()))

    async def _work(self) -> None:
        while self._waiting:
            await self._traffic.quiet(_QUIET_SECONDS)
            job = self._waiting.popleft()
            name, about = job.exposed.experiment.name, {"request_id": job.control.request_id}
            try:
                self._experiments.pair(job.exposed, [await self._run(job)])
            except _Displaced:
                job.num_attempts += 1
                if job.num_attempts < _MAX_ATTEMPTS:
                    self._waiting.append(job)
                else:
                    self._give_up(job)
            except (ServerError, DecodingError) as error:
                log.info("a shadow of '%s' failed: %s", name, error, extra=about)
                self._give_up(job)
            except Exception:
                log.exception("a shadow of '%s' failed", name, extra=about)
                self._give_up(job)

    def _give_up(self, job: _Job) -> None:
        pair = Pair(kind=PairKind.SHADOW, variant=job.variant, is_known=False, is_touched=False)
        self._experiments.pair(job.exposed, [pair])

    async def _run(self, job: _Job) -> Pair:
        """Run a request again and hold the two answers together."""
        command = replace(
            job.command,
            request_id=job.control.request_id,
            seed=job.control.seed,
            deadline=None,
            explain=False,
        )
        shadow = await self._accept(command, job.assignment)
        if shadow.explain is None:
            plans = Counterfactuals.of(shadow.plan, self._models).num_plans
            raise ExplanationTooLarge(plans, shadow.model.max_shadows or 0)
        control = replace(job.control, explain=Counterfactuals.of(job.control.plan, self._models))
        divergences = Divergences([control, shadow], is_first_explained=False)
        spellings = shadow.model.vocabulary.token_bytes

        def spelled(token: int | None) -> bytes:
            return spellings[token] if token is not None and token < len(spellings) else b""

        draws = HeldDraws(shadow.held, is_control=False, token_bytes=spelled)
        # The control's answer is whole.
        found = divergences.add(0, TokensEvent(0, 0, list(job.reply.tokens), ""))
        measured: dict[str, float] = {}
        # Closed here and now, so that a run that fails leaves the engine before the next.
        async with aclosing(self._events(shadow, job)) as events:
            async for event in events:
                if isinstance(event, TokensEvent):
                    draws.note(event)
                    if event.choice == 0:
                        found += divergences.add(1, event)
                else:
                    found += divergences.add(0, event) + divergences.add(1, event)
                    measured = scores(event, is_constrained=shadow.program is not None)
        measured |= draws.doses()
        (divergence,) = found
        before = {"changed_share": 0.0, "kl_dose": 0.0, **job.reply.outcomes}
        return Pair(
            kind=PairKind.SHADOW,
            variant=job.variant,
            is_touched=divergence.position is not None,
            position=divergence.position,
            control_token=spelled(divergence.first_token),
            token=spelled(divergence.token),
            cause="" if divergence.cause is None else divergence.cause.value,
            rules=divergence.rules,
            outcomes={
                name: (before[name], value) for name, value in measured.items() if name in before
            },
        )

    async def _events(
        self, shadow: Started, job: _Job
    ) -> AsyncGenerator[TokensEvent | FinishedEvent, None]:
        """Yield a shadow's tokens and its end.

        Raises:
            _Displaced: a live request came.
        """
        if self._traffic.is_busy:
            raise _Displaced
        mailbox = Mailbox()
        request = EngineRequest(
            request_id=f"shadow#{next(self._numbers)}",
            model=shadow.model.name,
            plan=shadow.plan,
            prompts=shadow.prompts,
            seed=shadow.seed,
            max_tokens=shadow.max_tokens,
            num_choices=shadow.num_choices,
            program=shadow.program,
            explain=shadow.explain,
            priority=Priority.LOW,
            cache_salt=job.command.caller.cache_salt,
            arrival=shadow.arrival,
        )
        self._engine.submit(request, mailbox)
        self._running = (request.request_id, mailbox)
        try:
            while True:
                for event in await mailbox.take():
                    if isinstance(event, FailedEvent):
                        raise event.error
                    yield event
                    if isinstance(event, FinishedEvent):
                        self._running = None
                        return
        finally:
            if self._running is not None and self._running[1] is mailbox:
                self._running = None
                self._engine.cancel(request.request_id)


def is_sampled(exposure_id: bytes, share_ppm: int) -> bool:
    """Say whether a request is run again: always the same, however often it is asked."""
    digest = hashlib.sha256(b"bosal/shadow/v1" + exposure_id).digest()
    return int.from_bytes(digest[:8], "big") * PPM >> 64 < share_ppm
