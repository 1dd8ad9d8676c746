"""The engine without its thread: what happens in one step, and to whom."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, perf_counter

import torch
from torch import Tensor

from bosal_decoding.constraints.slots import Verdict
from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_decoding.nudging import End
from bosal_decoding.vocabulary import Vocabulary
from bosal_server.engine.active_request import ActiveRequest
from bosal_server.engine.blocks import BlockAllocator
from bosal_server.engine.forwarding import Forwarding
from bosal_server.engine.group import GroupState, StreamGroup
from bosal_server.engine.observer import BlockStats, EngineObserver, EngineStats
from bosal_server.engine.reporter import Reporter
from bosal_server.engine.request import (
    EngineEvent,
    FailedEvent,
    FinishedEvent,
    FinishReason,
    TokensEvent,
)
from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.sampler import Draw, Sampler
from bosal_server.engine.scheduler import Scheduler
from bosal_server.engine.scheduler_step import SchedulerStep
from bosal_server.errors import (
    DeadlineExceeded,
    InternalFault,
    QueueTimeout,
    RequestCancelled,
    RequestIdInUse,
    ServerError,
)

_LOG = logging.getLogger(__name__)

_NO_TOKEN = {
    Verdict.GO_ON: FinishReason.RULE_CONFLICT,
    Verdict.DEAD_END: FinishReason.CONSTRAINT_DEAD_END,
    Verdict.TOO_SLOW: FinishReason.CONSTRAINT_TOO_SLOW,
}
_ENDS = {
    Verdict.COMPLETE: FinishReason.CONSTRAINT_COMPLETE,
    Verdict.CLOSED: FinishReason.CONSTRAINT_CLOSED,
    Verdict.TOO_SLOW: FinishReason.CONSTRAINT_TOO_SLOW,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """A model as the engine needs it."""

    runner: ModelRunner
    vocabulary: Vocabulary
    context_tokens: int
    digest: str = ""  # of weights and tokenizer; keeps prefixes of different models apart


class Stepper:
    """Owns the requests inside the engine; every method belongs to the engine's thread."""

    def __init__(
        self,
        models: Mapping[str, EngineModel],
        *,
        max_groups: int,
        max_batch_tokens: int,
        observer: EngineObserver,
        on_left_queue: Callable[[ActiveRequest], None],
        max_queue_seconds: float | None = None,
        retry_after: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._models = dict(models)
        self._allocators = {
            name: BlockAllocator(
                model.runner.num_blocks, model.runner.block_size, model.digest.encode()
            )
            for name, model in self._models.items()
        }
        self._pipelines = {
            name: ExplainingPipeline(
                model.runner.vocab_size, max_groups, device=model.runner.device
            )
            for name, model in self._models.items()
        }
        self._forwarding = Forwarding({name: model.runner for name, model in self._models.items()})
        self._sampler = Sampler(self._forwarding, self._pipelines)
        self._scheduler = Scheduler(
            self._allocators, max_groups=max_groups, max_batch_tokens=max_batch_tokens
        )
        self._reporter = Reporter(observer, self._scheduler, self._allocators)
        self._on_left_queue = on_left_queue
        self._max_queue_seconds = max_queue_seconds
        self._retry_after = retry_after
        self._requests: dict[str, ActiveRequest] = {}
        self._events: list[tuple[object, EngineEvent]] = []
        self._num_steps = 0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def allocator(self, model: str) -> BlockAllocator:
        return self._allocators[model]

    def add(self, active: ActiveRequest) -> None:
        """Queue a request's groups, choice after choice."""
        request_id = active.request.request_id
        if request_id in self._requests:
            active.is_over = True
            self._on_left_queue(active)
            self._events.append((active.sink, FailedEvent(RequestIdInUse(request_id))))
            return
        self._requests[request_id] = active
        for group in active.groups:
            self._scheduler.submit(group)

    def cancel(self, request_id: str) -> None:
        """End a request on its caller's wish, if it is still here."""
        active = self._requests.get(request_id)
        if active is not None:
            self._fail(active, RequestCancelled())

    def displace(self, active: ActiveRequest, error: ServerError) -> None:
        """Refuse a request that has to leave the queue, unless its turn came just now."""
        if not active.was_admitted:
            self._fail(active, error)

    def expire(self, now: float) -> None:
        """End the requests whose deadline has passed, or that have waited too long."""
        for active in list(self._requests.values()):
            deadline = active.request.deadline
            if deadline is not None and now >= deadline:
                self._fail(active, DeadlineExceeded())
            elif (
                self._max_queue_seconds is not None
                and not active.was_admitted
                and now - active.request.arrival >= self._max_queue_seconds
            ):
                error = QueueTimeout(self._max_queue_seconds, self._retry_after())
                self._fail(active, error)

    def fail_all(self, error: ServerError) -> None:
        """End every request; each gets its answer, whatever state the engine is in."""
        for active in list(self._requests.values()):
            try:
                self._fail(active, error)
            except Exception:
                _LOG.exception("request %s left blocks behind", active.request.request_id)
                self._finish(active, FailedEvent(error))

    def take_events(self) -> list[tuple[object, EngineEvent]]:
        """Return what has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def step(self) -> None:
        """Schedule, run, sample, emit."""
        started = perf_counter()
        self._start(self._scheduler.admit())
        step = self._scheduler.plan()
        if not step.plans:
            if self._scheduler.has_work:
                raise RuntimeError("requests are waiting but nothing can be scheduled")
            return
        self._start_masks(step)
        logits, forward_seconds = self._forwarding.run(step)
        self._fail_groups(self._forwarding.take_failed())
        self._reporter.prefixes(step)
        self._scheduler.complete(step)
        control_seconds = self._decide(step, logits)
        self._num_steps += 1
        seconds = perf_counter() - started
        self._reporter.step(
            step, forward_seconds, control_seconds, self._sampler.take_rule_seconds(), seconds
        )

    def stats(self, waiting_requests: int) -> EngineStats:
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            waiting_requests=waiting_requests,
            num_steps=self._num_steps,
            blocks={
                name: BlockStats(pool.num_held, pool.num_free, pool.num_findable, pool.num_blocks)
                for name, pool in self._allocators.items()
            },
        )

    def _start(self, admitted: list[StreamGroup]) -> None:
        now = monotonic()
        for group in admitted:
            if group.state is GroupState.GONE:  # its request failed with an earlier choice
                continue
            active = self._requests[group.request_id]
            if not active.was_admitted:
                self._on_left_queue(active)
            active.note_admission(now)
            request = active.request
            with self._isolated(active):
                pipeline = self._pipelines[request.model]
                history = request.prompts[0].history_ids
                pipeline.add(
                    group.slot,
                    request.plan,
                    history=history,
                    seed=request.seed,
                    choice=group.choice,
                    logprobs=request.logprobs,
                    program=request.program,
                    max_tokens=request.max_tokens,
                )
                if request.explain is not None:
                    pipeline.explain(
                        group.slot,
                        request.explain,
                        history=history,
                        seed=request.seed,
                        choice=group.choice,
                    )

    def _start_masks(self, step: SchedulerStep) -> None:
        """Have the constraints' masks filled while the models run."""
        slots: dict[str, list[int]] = {}
        for group in step.ready:
            slots.setdefault(group.streams[0].model, []).append(group.slot)
        for name, here in slots.items():
            self._pipelines[name].start_masks(here)

    def close(self) -> None:
        """Let go of what the pipelines hold beyond memory."""
        for pipeline in self._pipelines.values():
            pipeline.close()

    def _decide(self, step: SchedulerStep, logits: Mapping[str, Tensor]) -> dict[str, float]:
        """Draw each ready group's token and hand it on; return the seconds spent in control."""
        members: dict[str, list[int]] = {}
        for i, group in enumerate(step.ready):
            if group.state is GroupState.GONE:
                continue
            if group.scoring is not None:
                self._score(step, i, logits)
            elif group.is_guiding:
                active = self._requests[group.request_id]
                with self._isolated(active):
                    self._listen(active, group, logits[group.active[0].model][step.rows[i][0]])
            else:
                members.setdefault(group.streams[0].model, []).append(i)
        seconds: dict[str, float] = {}
        for name, indices in members.items():
            groups = [step.ready[i] for i in indices]
            started = perf_counter()
            try:
                draws = self._sampler.draw(name, step, indices, logits)
            except Exception:
                _LOG.exception("control failed for model '%s'", name)
                self._fail_groups(groups)
                continue
            seconds[name] = perf_counter() - started
            now = monotonic()
            for group, drawn in zip(groups, draws, strict=True):
                if group.state is not GroupState.GONE:
                    active = self._requests[group.request_id]
                    with self._isolated(active):
                        self._settle(active, group, drawn, now)
        return seconds

    def _settle(
        self, active: ActiveRequest, group: StreamGroup, drawn: Draw | None, now: float
    ) -> None:
        """Take one group's token: stop rules, text, events."""
        output = active.outputs[group.choice]
        if drawn is None or drawn.is_faulty:
            if drawn is not None:
                _LOG.error("request %s: the model gave no usable logits", group.request_id)
            self._fail(active, InternalFault())
            return
        nudger = group.nudger
        if drawn.is_asking:
            assert nudger is not None
            group.ask(nudger.guide_ids)
            return
        if drawn.yielded:
            output.note_yielded(drawn.yielded)
        if drawn.token < 0:
            pipeline = self._pipelines[group.streams[0].model]
            output.end_without_token(_NO_TOKEN[pipeline.blocked(group.slot)])
        else:
            self._take(active, group, drawn, now)
        self._emit(active, group, now)

    def _listen(self, active: ActiveRequest, group: StreamGroup, row: Tensor) -> None:
        """Take the guide's next token: its best one."""
        nudger, guide, plan = group.nudger, group.guide, active.request.plan.guide
        assert nudger is not None
        assert guide is not None
        assert plan is not None
        best = row[: plan.stream.vocabulary.size].max(0)
        if not bool(best.values < torch.inf):
            _LOG.error("request %s: the guide gave no usable logits", group.request_id)
            self._fail(active, InternalFault())
            return
        token = int(best.indices)
        if not nudger.hear(token):
            guide.own.append(token)
        elif nudger.end is None:
            group.resume()
        else:
            reason = FinishReason.LOOP if nudger.end is End.LOOP else FinishReason.STOP_RULE
            active.outputs[group.choice].end_without_token(reason)
            self._emit(active, group, monotonic())

    def _emit(self, active: ActiveRequest, group: StreamGroup, now: float) -> None:
        """Hand on what became final; end the choice, and the request, if that was all."""
        output = active.outputs[group.choice]
        event = output.take()
        if event is not None:
            self._events.append((active.sink, event))
        if output.ending is not None:
            self._remove(group, keep=True)
            endings = active.endings
            if endings is not None:
                self._finish(active, active.finished(endings, now))

    def _score(self, step: SchedulerStep, member: int, logits: Mapping[str, Tensor]) -> None:
        """Take the log-probabilities of a group's given tokens, and feed it the next ones."""
        group = step.ready[member]
        active = self._requests[group.request_id]
        scoring = group.scoring
        assert scoring is not None
        with self._isolated(active):
            tokens = scoring.scored(group.num_rows)
            logprobs = self._sampler.score(step, member, tokens, logits)
            if logprobs is None:
                _LOG.error("request %s: the model gave no usable logits", group.request_id)
                self._fail(active, InternalFault())
                return
            now = monotonic()
            first = scoring.num_scored
            event = TokensEvent(group.choice, first, list(tokens), "", logprobs)
            self._events.append((active.sink, event))
            output = active.outputs[group.choice]
            output.num_tokens += len(tokens)
            active.note_token(output, now)
            feed = scoring.advance(len(tokens))
            group.commit(feed)
            group.num_rows = len(feed)
            if not feed:
                output.end_without_token(FinishReason.MAX_TOKENS)
                self._remove(group, keep=True)
                endings = active.endings
                assert endings is not None
                self._finish(active, active.finished(endings, now))

    def _take(self, active: ActiveRequest, group: StreamGroup, drawn: Draw, now: float) -> None:
        """Hand a drawn token to the choice, and those that the constraint dictates after it."""
        output = active.outputs[group.choice]
        pipeline = self._pipelines[group.streams[0].model]
        group.commit([drawn.token])
        verdict = pipeline.settle(group.slot)
        num_tokens = len(group.output)
        if verdict in _ENDS and num_tokens < active.request.plan.params.min_tokens:
            output.note_yielded(["min_tokens"])
        nudger = group.nudger
        if verdict is Verdict.RETRACT:
            group.rollback(1)
            if nudger is not None:
                nudger.reset()
            if pipeline.retract(group.slot):
                output.end_without_token(FinishReason.CONSTRAINT_CLOSED)
            return
        active.note_token(output, now)
        rollback = output.accept(
            drawn.token,
            drawn.logprobs,
            drawn.explanation,
            is_intervention=drawn.is_intervention,
            is_forced=pipeline.was_forced(group.slot),
            reason=_ENDS.get(verdict),
        )
        if nudger is not None:
            nudger.taken(drawn.token)
        # Where every token is asked about, each has a step of its own.
        is_asked = active.request.logprobs >= 0 or active.request.explain is not None
        forced = [] if is_asked or rollback or output.ending else pipeline.take_forced(group.slot)
        if forced:
            group.commit(forced)
            if nudger is not None:
                nudger.reset()
            verdict = pipeline.settle(group.slot)
        for place, token in enumerate(forced, start=1):
            is_last = place == len(forced)
            rollback = output.accept(
                token, is_forced=True, reason=_ENDS.get(verdict) if is_last else None
            )
            if rollback is not None or output.ending is not None:
                break
        if rollback is not None:
            self._roll_back(group, rollback.position, rollback.token)

    def _roll_back(self, group: StreamGroup, position: int, token: int) -> None:
        pipeline = self._pipelines[group.streams[0].model]
        count = len(group.output) - position
        group.rollback(count)
        pipeline.rollback(group.slot, count)
        pipeline.ban(group.slot, position, token)
        if group.nudger is not None:
            group.nudger.reset()

    @contextmanager
    def _isolated(self, active: ActiveRequest) -> Iterator[None]:
        """Turn an exception into the failure of this request alone."""
        try:
            yield
        except Exception:
            _LOG.exception("request %s failed", active.request.request_id)
            self._fail(active, InternalFault())

    def _fail_groups(self, groups: list[StreamGroup]) -> None:
        for group in groups:
            active = self._requests.get(group.request_id)
            if active is not None:
                self._fail(active, InternalFault())

    def _fail(self, active: ActiveRequest, error: ServerError) -> None:
        """End a request early and free all it holds."""
        if active.is_over:
            return
        is_sound = not isinstance(error, InternalFault)
        for group in active.groups:
            self._remove(group, keep=is_sound)
        self._finish(active, FailedEvent(error))

    def _remove(self, group: StreamGroup, *, keep: bool) -> None:
        if group.state in (GroupState.PREFILLING, GroupState.DECODING):
            self._pipelines[group.streams[0].model].free(group.slot)
        self._scheduler.remove(group, keep=keep)

    def _finish(self, active: ActiveRequest, event: FinishedEvent | FailedEvent) -> None:
        active.is_over = True
        del self._requests[active.request.request_id]
        if not active.was_admitted:
            self._on_left_queue(active)
        self._events.append((active.sink, event))
        self._reporter.finished(active, event)
