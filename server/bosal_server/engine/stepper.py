"""One step of the engine: schedule, run the models, draw, settle."""

import logging
from collections.abc import Mapping
from time import monotonic, perf_counter

import torch
from torch import Tensor

from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_decoding.plugin_slots import PLUGIN_SECONDS
from bosal_server.engine.blocks import BlockAllocator
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.forwarding import Forwarding
from bosal_server.engine.group import GroupState, StreamGroup
from bosal_server.engine.observer import BlockStats, EngineObserver, EngineStats
from bosal_server.engine.reporter import Reporter
from bosal_server.engine.roster import Roster
from bosal_server.engine.sampler import Sampler
from bosal_server.engine.scheduler import Scheduler
from bosal_server.engine.scheduler_step import SchedulerStep
from bosal_server.engine.settler import Settler
from bosal_server.engine.shadow_room import ShadowRoom
from bosal_server.engine.waiting_room import WaitingRoom

_LOG = logging.getLogger(__name__)


class Stepper:
    """Takes steps for the requests of its roster; all of it belongs to the engine's thread."""

    def __init__(
        self,
        models: Mapping[str, EngineModel],
        *,
        max_groups: int,
        max_batch_tokens: int,
        observer: EngineObserver,
        room: WaitingRoom,
        plugin_seconds: float = PLUGIN_SECONDS,
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
                model.runner.vocab_size,
                max_groups,
                device=model.runner.device,
                plugin_seconds=plugin_seconds,
                max_shadows=model.max_shadows,
            )
            for name, model in self._models.items()
        }
        for name, pipeline in self._pipelines.items():
            # Rows come in the type that the model computes in.
            model = self._models[name]
            pipeline.warm_up(getattr(torch, model.runner.dtype), model.vocabulary.size)
        slots = {name: pipeline.slots for name, pipeline in self._pipelines.items()}
        self._forwarding = Forwarding({name: model.runner for name, model in self._models.items()})
        self._sampler = Sampler(self._forwarding, self._pipelines)
        self._scheduler = Scheduler(
            self._allocators,
            max_groups=max_groups,
            max_batch_tokens=max_batch_tokens,
            shadow_room=ShadowRoom({name: one.max_shadows for name, one in self._models.items()}),
        )
        self._reporter = Reporter(observer, self._scheduler, self._allocators)
        self.roster = Roster(
            self._scheduler,
            slots,
            self._reporter,
            room,
        )
        self._settler = Settler(self.roster, slots, self._sampler)
        self._num_steps = 0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def allocator(self, model: str) -> BlockAllocator:
        return self._allocators[model]

    def step(self) -> None:
        """Schedule, run, sample, emit."""
        started = perf_counter()
        admitted = self._scheduler.admit()
        self._start(admitted)
        step = self._scheduler.plan()
        if not step.plans:
            # Those admitted may be over at once, and others wait for their slots.
            if self._scheduler.has_work and not admitted:
                raise RuntimeError("requests are waiting but nothing can be scheduled")
            return
        self._start_masks(step)
        logits, forward_seconds = self._forwarding.run(step)
        self.roster.fail_groups(self._forwarding.take_failed())
        self._reporter.prefixes(step)
        self._scheduler.complete(step)
        control_seconds = self._decide(step, logits)
        self._num_steps += 1
        seconds = perf_counter() - started
        self._reporter.step(
            step,
            forward_seconds,
            control_seconds,
            self._sampler.take_rule_seconds(),
            self._sampler.take_fill_seconds(),
            seconds,
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
            active = self.roster.of(group)
            self.roster.admit(active, now)
            request = active.request
            with self.roster.isolated(active):
                pipeline = self._pipelines[request.model]
                history = request.prompts[0].history_ids
                pipeline.slots.add(
                    group.slot,
                    request.plan,
                    history=history,
                    seed=request.seed,
                    choice=group.choice,
                    logprobs=request.logprobs,
                    program=request.program,
                    max_tokens=request.max_tokens,
                    opening=request.prompts[0].opening,
                )
                if request.explain is not None:
                    pipeline.explain(
                        group.slot,
                        request.explain,
                        history=history,
                        seed=request.seed,
                        choice=group.choice,
                    )
                self._settler.open(active, group, now)

    def _start_masks(self, step: SchedulerStep) -> None:
        """Have the constraints' masks filled while the models run."""
        slots: dict[str, list[int]] = {}
        for group in step.ready:
            slots.setdefault(group.streams[0].model, []).append(group.slot)
        for name, here in slots.items():
            self._pipelines[name].slots.start_masks(here)

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
                self._settler.score(step, i, logits)
            elif group.is_guiding:
                active = self.roster.of(group)
                with self.roster.isolated(active):
                    row = logits[group.active[0].model][step.rows[i][0]]
                    self._settler.listen(active, group, row)
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
                self.roster.fail_groups(groups)
                continue
            seconds[name] = perf_counter() - started
            now = monotonic()
            for group, drawn in zip(groups, draws, strict=True):
                if group.state is not GroupState.GONE:
                    active = self.roster.of(group)
                    with self.roster.isolated(active):
                        self._settler.settle(active, group, drawn, now)
        return seconds
