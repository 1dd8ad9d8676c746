"""The engine's thread: it alone touches the models; others post messages and are called back."""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic

import torch

from bosal_decoding.plugin_slots import PLUGIN_SECONDS
from bosal_server.engine.about import about
from bosal_server.engine.active_request import ActiveRequest
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.observer import EngineObserver, EngineStats, NullObserver
from bosal_server.engine.request import EngineEvent, EngineRequest
from bosal_server.engine.scheduler import check_size
from bosal_server.engine.stepper import Stepper
from bosal_server.engine.waiting_room import WaitingRoom
from bosal_server.errors import (
    EngineStopped,
    InternalFault,
    QueueFull,
    UnknownModel,
    check_shadows,
)

_LOG = logging.getLogger(__name__)

Deliver = Callable[[list[tuple[object, EngineEvent]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of the engine, and what it does to the process."""

    max_groups: int = 64  # choices decoded at once, over all models
    max_waiting: int = 256  # requests
    max_waiting_tokens: int | None = None  # reserved for those that wait; unset: no limit
    max_queue_seconds: float | None = None  # to the first token; who would wait longer is refused
    max_batch_tokens: int = 512  # new tokens in a step; bounds how long a prompt delays others
    plugin_seconds: float = PLUGIN_SECONDS  # a plug-in rule may hold a step up for so long
    # Threads of torch's operators; unset leaves torch's choice.
    torch_threads: int | None = None
    # Seconds after which Python lets another thread run; unset leaves it. With the default of 5 ms
    # an event loop beside the engine is late by as much. With much less than 2 ms it is later too:
    # behind every operator of torch the engine asks for its turn, and what the loop does at once
    # is cut into pieces, each of which waits for the lock and for a processor again.
    switch_interval: float | None = 0.002


@dataclass(frozen=True, slots=True)
class _Message:
    """What the engine's thread is asked to do, and whose request fails if it cannot be done."""

    act: Callable[[], None]
    active: ActiveRequest | None = None


class EngineLoop:
    """Runs requests on models, in a thread of its own.

    `deliver` is called from that thread, at most once a step, with that step's events; each comes
    with the sink its request was submitted with, which means nothing to the engine.
    """

    def __init__(
        self,
        models: Mapping[str, EngineModel],
        config: EngineConfig,
        deliver: Deliver,
        observer: EngineObserver | None = None,
        on_crash: Callable[[], None] | None = None,
    ) -> None:
        """`on_crash` is called from the thread when it ends without having been stopped."""
        self._on_crash = on_crash
        self._models = dict(models)
        self._config = config
        self._deliver = deliver
        self._room = WaitingRoom(
            config.max_waiting, config.max_waiting_tokens, config.max_queue_seconds
        )
        self._stepper = Stepper(
            self._models,
            max_groups=config.max_groups,
            max_batch_tokens=config.max_batch_tokens,
            room=self._room,
            plugin_seconds=config.plugin_seconds,
            observer=observer or NullObserver(),
        )
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        self._lock = Lock()
        self._is_stopping = False
        self._drain_until: float | None = None
        self._stats = self._stepper.stats(0)
        self._thread = Thread(target=self._run, name="bosal-engine", daemon=True)

    def start(self) -> None:
        """Start the thread; sets the process's switch interval if so configured."""
        if self._config.switch_interval is not None:
            sys.setswitchinterval(self._config.switch_interval)
        self._thread.start()

    def submit(self, request: EngineRequest, sink: object) -> None:
        """Queue a request from any thread; everything later comes through `deliver`.

        An id that is in use by a request inside the engine fails the new one.

        Raises:
            UnknownModel: one of its models is not served.
            RequestTooLarge, ExplanationTooLarge: it could never be admitted.
            QueueFull: too many requests wait; says when to try again.
            DeadlineUnreachable: it would still wait at its deadline.
            EngineStopped: the engine is shutting down.
        """
        model = self._models.get(request.model)
        if model is None:
            raise UnknownModel(request.model, self._models)
        if request.plan.vocabulary != model.vocabulary:
            raise ValueError(f"the plan was not compiled for model '{request.model}'")
        if (request.program is None) != (request.plan.recipe.constraint is None):
            raise ValueError("a plan with a constraint goes with its program, another with none")
        if request.explain is not None:
            check_shadows(request.explain.num_plans, model.max_shadows)
        self._check_size(request)
        active = ActiveRequest(request, sink)
        with self._lock:
            if self._is_stopping:
                raise EngineStopped
            displaced = self._room.enter(active)
            self._inbox.put(_Message(lambda: self._stepper.roster.add(active), active))
            if displaced is not None:
                error = QueueFull(
                    waiting="requests of keys that take up less",
                    limit=f"{self._config.max_waiting} requests",
                    retry_after=self._room.retry_after(),
                )
                self._inbox.put(
                    _Message(lambda: self._stepper.roster.displace(displaced, error), displaced)
                )

    def check_room(self, *, key_id: str, priority: int, deadline: float | None) -> None:
        """Refuse a request of which nothing else is known yet, from any thread.

        Raises:
            QueueFull, DeadlineUnreachable: `submit` would raise it, whatever the request.
        """
        self._room.check(key_id=key_id, priority=priority, deadline=deadline)

    def _check_size(self, request: EngineRequest) -> None:
        """Refuse a group whose worst case exceeds one of its models, whatever else is there."""
        lengths: dict[str, list[int]] = {}
        for name, prompt, room in zip(
            request.stream_models, request.prompts, request.stream_rooms, strict=True
        ):
            # A guide's room is its own: what it has more than the others counts as prompt.
            length = len(prompt.token_ids) + room - request.max_tokens
            lengths.setdefault(name, []).append(length)
        for name, prompt_lengths in lengths.items():
            if name not in self._models:
                raise UnknownModel(name, self._models)
            check_size(
                self._stepper.allocator(name),
                prompt_lengths=prompt_lengths,
                max_tokens=request.max_tokens,
                context_tokens=self._models[name].context_tokens,
            )

    def cancel(self, request_id: str) -> None:
        """End a request at the next step, from any thread; unknown and ended ones are ignored."""
        self._inbox.put(_Message(lambda: self._stepper.roster.cancel(request_id)))

    def stats(self) -> EngineStats:
        """Return the state after the last step, from any thread."""
        return self._stats

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs at this moment, the step under way included."""
        return len(self._room) > 0 or self._stepper.has_work

    @property
    def is_crowded(self) -> bool:
        """Whether many requests are being turned away for want of room."""
        return self._room.is_crowded

    def stop(self, drain_seconds: float = 0.0) -> None:
        """Take no more requests, give those inside some time, then fail them; wait for the end."""
        with self._lock:
            self._is_stopping = True
            self._inbox.put(_Message(lambda: self._begin_drain(drain_seconds)))
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """The thread runs and takes requests."""
        return self._thread.is_alive() and not self._is_stopping

    def _run(self) -> None:
        """Work until stopped; whatever ends the thread, nobody is left without an answer."""
        try:
            self._work()
        except BaseException:
            _LOG.critical("the engine crashed", exc_info=True)
            with self._lock:
                self._is_stopping = True
            self._read_inbox(wait=False)
            self._stepper.roster.fail_all(EngineStopped())
            self._flush()
            if self._on_crash is not None:
                self._on_crash()

    def _work(self) -> None:
        if self._config.torch_threads is not None:
            torch.set_num_threads(self._config.torch_threads)
        with torch.inference_mode():
            while not self._is_drained():
                self._turn()
            self._stepper.roster.fail_all(EngineStopped())
        self._flush()
        self._stepper.close()
        for model in self._models.values():
            model.runner.close()

    def _turn(self) -> None:
        """Read the mail, take one step, send the mail."""
        self._read_inbox(wait=not self._stepper.has_work)
        try:
            self._stepper.roster.expire(monotonic())
            if self._stepper.has_work:
                self._stepper.step()
        except torch.AcceleratorError:
            # CUDA answers whatever a process asks later with the same error.
            raise
        except Exception:
            _LOG.exception("an engine step failed; every request in the engine fails with it")
            self._stepper.roster.fail_all(InternalFault())
        self._flush()

    def _read_inbox(self, *, wait: bool) -> None:
        try:
            message = self._inbox.get(block=wait)
            while True:
                self._honour(message)
                message = self._inbox.get_nowait()
        except Empty:
            pass

    def _honour(self, message: _Message) -> None:
        try:
            message.act()
        except Exception:
            if message.active is None:
                _LOG.exception("a message to the engine could not be honoured")
                return
            id_ = message.active.request.request_id
            _LOG.exception("request %s: a message could not be honoured", id_, extra=about(id_))
            self._stepper.roster.break_off(message.active)

    def _flush(self) -> None:
        self._stats = self._stepper.stats(len(self._room))
        events = self._stepper.roster.take_events()
        if not events:
            return
        try:
            self._deliver(events)
        except Exception:
            _LOG.exception("delivering %d events failed", len(events))

    def _begin_drain(self, seconds: float) -> None:
        self._drain_until = monotonic() + seconds

    def _is_drained(self) -> bool:
        if self._drain_until is None:
            return False
        return not self._stepper.has_work or monotonic() >= self._drain_until
