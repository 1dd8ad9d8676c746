"""The requests inside the engine, from their arrival to their last event."""

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType

from bosal_decoding.errors import PluginFault
from bosal_decoding.slots import Slots
from bosal_server.engine.about import about
from bosal_server.engine.active_request import ActiveRequest
from bosal_server.engine.choice import ChoiceOutput
from bosal_server.engine.group import GroupState, StreamGroup
from bosal_server.engine.reporter import Reporter
from bosal_server.engine.request import EngineEvent, FailedEvent, FinishedEvent
from bosal_server.engine.scheduler import Scheduler
from bosal_server.engine.waiting_room import WaitingRoom
from bosal_server.errors import (
    DeadlineExceeded,
    InternalFault,
    RequestCancelled,
    RequestIdInUse,
    ServerError,
)

_LOG = logging.getLogger(__name__)


class Roster:
    """Knows every request by its id, and sees to it that each ends once and frees what it held."""

    def __init__(
        self,
        scheduler: Scheduler,
        slots: Mapping[str, Slots],
        reporter: Reporter,
        room: WaitingRoom,
    ) -> None:
        self._scheduler = scheduler
        self._slots = slots
        self._reporter = reporter
        self._room = room
        self._requests: dict[str, ActiveRequest] = {}
        self._events: list[tuple[object, EngineEvent]] = []

    def of(self, group: StreamGroup) -> ActiveRequest:
        """Return the request a living group belongs to."""
        return self._requests[group.request_id]

    def add(self, active: ActiveRequest) -> None:
        """Queue a request's groups, choice after choice."""
        request_id = active.request.request_id
        if request_id in self._requests:
            self._refuse(active, RequestIdInUse(request_id))
            return
        self._requests[request_id] = active
        for group in active.groups:
            self._scheduler.submit(group)

    def cancel(self, request_id: str) -> None:
        """End a request on its caller's wish, if it is still here."""
        active = self._requests.get(request_id)
        if active is not None:
            self.fail(active, RequestCancelled())

    def displace(self, active: ActiveRequest, error: ServerError) -> None:
        """Refuse a request that has to leave the queue, unless its turn came just now."""
        if not active.was_admitted:
            self.fail(active, error)

    def expire(self, now: float) -> None:
        """End the requests whose deadline has passed, or that have waited too long."""
        for active in list(self._requests.values()):
            deadline = active.request.deadline
            if deadline is not None and now >= deadline:
                self.fail(active, DeadlineExceeded())
            elif not active.was_admitted:
                timeout = self._room.timeout(now - active.request.arrival)
                if timeout is not None:
                    self.fail(active, timeout)

    def fail_all(self, error: ServerError) -> None:
        """End every request; each gets its answer, whatever state the engine is in."""
        for active in list(self._requests.values()):
            self._fail_somehow(active, error)

    def break_off(self, active: ActiveRequest) -> None:
        """End a request on a fault of ours, however far it got; it gets its answer."""
        if self._requests.get(active.request.request_id) is active:
            self._fail_somehow(active, InternalFault())
        elif not active.is_over:
            self._refuse(active, InternalFault())

    def fail_groups(self, groups: Sequence[StreamGroup]) -> None:
        """End the requests of some groups on a fault of ours."""
        for group in groups:
            active = self._requests.get(group.request_id)
            if active is not None:
                self.fail(active, InternalFault())

    def isolated(self, active: ActiveRequest) -> "_Isolation":
        """Turn an exception into the failure of this request alone."""
        return _Isolation(self, active)

    def blame(self, active: ActiveRequest, fault: PluginFault) -> None:
        """End a request on a fault of another package's code."""
        id_ = active.request.request_id
        _LOG.error("request %s: %s", id_, fault, exc_info=fault.__cause__, extra=about(id_))
        self.fail(active, fault)

    def fail(self, active: ActiveRequest, error: ServerError | PluginFault) -> None:
        """End a request early and free all it holds."""
        if active.is_over:
            return
        is_sound = not isinstance(error, InternalFault)
        for group in active.groups:
            self._remove(group, keep=is_sound)
        self._finish(active, FailedEvent(error))

    def admit(self, active: ActiveRequest, now: float) -> None:
        """Note that a request's turn has come."""
        if not active.was_admitted:
            self._room.leave(active, was_admitted=True)
        active.note_admission(now)

    def note_token(self, active: ActiveRequest, output: ChoiceOutput, now: float) -> None:
        """Record when a choice's token was drawn."""
        is_first = active.note_token(output, now)
        if is_first and active.start_seconds is not None:
            self._room.note_start(active.start_seconds)

    def emit(self, active: ActiveRequest, event: EngineEvent) -> None:
        """Hand on one of a request's events that is not its last."""
        self._events.append((active.sink, event))

    def end(self, active: ActiveRequest, group: StreamGroup, now: float) -> None:
        """Let go of a choice that has ended, and of its request if it was the last one."""
        self._remove(group, keep=True)
        endings = active.endings
        if endings is not None:
            self._finish(active, active.finished(endings, now))

    def take_events(self) -> list[tuple[object, EngineEvent]]:
        """Return what has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _fail_somehow(self, active: ActiveRequest, error: ServerError) -> None:
        try:
            self.fail(active, error)
        except Exception:
            id_ = active.request.request_id
            _LOG.exception("request %s left blocks behind", id_, extra=about(id_))
            self._finish(active, FailedEvent(error))

    def _refuse(self, active: ActiveRequest, error: ServerError) -> None:
        """Answer a request that never got in."""
        active.is_over = True
        self._room.leave(active, was_admitted=False)
        self._events.append((active.sink, FailedEvent(error)))

    def _remove(self, group: StreamGroup, *, keep: bool) -> None:
        if group.state in (GroupState.PREFILLING, GroupState.DECODING):
            self._slots[group.streams[0].model].free(group.slot)
        self._scheduler.remove(group, keep=keep)

    def _finish(self, active: ActiveRequest, event: FinishedEvent | FailedEvent) -> None:
        active.is_over = True
        del self._requests[active.request.request_id]
        if not active.was_admitted:
            self._room.leave(active, was_admitted=False)
        self._events.append((active.sink, event))
        self._reporter.finished(active, event)


class _Isolation:
    """A context manager without a generator: every row enters one at every step."""

    __slots__ = ("_active", "_roster")

    def __init__(self, roster: Roster, active: ActiveRequest) -> None:
        self._roster = roster
        self._active = active

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, PluginFault):
            self._roster.blame(self._active, error)
        elif isinstance(error, Exception):
            id_ = self._active.request.request_id
            _LOG.error("request %s failed", id_, exc_info=error, extra=about(id_))
            self._roster.fail(self._active, InternalFault())
        return isinstance(error, Exception)
