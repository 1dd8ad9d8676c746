"""The steps of an experiment's life: checked, taken whole or not at all, and audited."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bosal_server.experiments import lifecycle
from bosal_server.experiments.assignment import PPM
from bosal_server.experiments.catalogue import Catalogue, Change
from bosal_server.experiments.errors import GuardrailBroken, PromotionBlocked
from bosal_server.experiments.experiment import Experiment, Phase
from bosal_server.experiments.reporter import Reporter

__all__ = ["Steps"]


class Steps:
    """What people do to experiments. Its coroutines belong to one event loop."""

    def __init__(
        self, catalogue: Catalogue, reporter: Reporter, clock: Callable[[], float]
    ) -> None:
        self._catalogue = catalogue
        self._reporter = reporter
        self._clock = clock

    async def create(self, draft: Experiment, request_id: str, actor: str) -> Experiment:
        """Keep an experiment as a draft."""
        now = self._clock()
        weights = tuple(variant.weight_ppm for variant in draft.variants)
        experiment = draft.model_copy(
            update={"phases": (Phase(number=1, weights_ppm=weights),), "created": now}
        )
        change = Change(action="CREATE", actor=actor)
        entry = await asyncio.to_thread(self._catalogue.create, experiment, request_id, change, now)
        return entry.experiment

    async def begin(
        self, name: str, change: Change, acknowledged: Sequence[str] = ()
    ) -> Experiment:
        """Enrol units, or go on after a pause, in spite of the guardrails that are named.

        Raises:
            GuardrailBroken: what the phase has shown would pause it again at once.
        """
        entry = self._catalogue.get(name, field="change.name")
        # What the state forbids is said first.
        then = lifecycle.started(entry.experiment, self._clock(), acknowledged)
        borne = then.acknowledged_guardrails
        harms = await asyncio.to_thread(self._reporter.harms, entry)
        if broken := [harm for harm in harms if harm.metric not in borne]:
            names = sorted({harm.metric for harm in broken})
            raise GuardrailBroken(name, broken, names)
        if acknowledged:
            change = replace(change, details={"acknowledged_guardrails": list(borne)})
        return await self._step(
            name, lambda e: lifecycle.started(e, self._clock(), acknowledged), change
        )

    async def pause(self, name: str, change: Change) -> Experiment:
        return await self._step(name, lambda e: lifecycle.paused(e, change.reason), change)

    async def stop(self, name: str, change: Change) -> Experiment:
        return await self._step(
            name, lambda e: lifecycle.stopped(e, self._clock(), change.reason), change
        )

    async def promote(
        self, name: str, variant: str, override_reason: str, change: Change
    ) -> Experiment:
        """End an experiment and serve one variant to all.

        Raises:
            PromotionBlocked: the report warns and `override_reason` is empty.
        """
        entry = self._catalogue.get(name, field="change.name")
        # What the state forbids is said first.
        lifecycle.promoted(entry.experiment, self._clock(), variant, "")
        warnings = await asyncio.to_thread(self._reporter.blocking, entry)
        if warnings and not override_reason.strip():
            raise PromotionBlocked(name, warnings)
        details: dict[str, object] = {"variant": variant}
        if warnings:
            details |= {"warnings": warnings, "override_reason": override_reason}
        return await self._step(
            name,
            lambda e: lifecycle.promoted(e, self._clock(), variant, change.reason),
            replace(change, details=details),
        )

    async def update_traffic(self, name: str, coverage_ppm: int, change: Change) -> Experiment:
        change = replace(change, details={"coverage": coverage_ppm / PPM})
        return await self._step(name, lambda e: lifecycle.with_coverage(e, coverage_ppm), change)

    async def new_phase(self, name: str, weights: Mapping[str, int], change: Change) -> Experiment:
        change = replace(change, details={"weights": {k: w / PPM for k, w in weights.items()}})
        return await self._step(
            name, lambda e: lifecycle.new_phase(e, self._clock(), weights), change
        )

    async def _step(
        self, name: str, step: Callable[[Experiment], Experiment], change: Change
    ) -> Experiment:
        entry = await asyncio.to_thread(self._catalogue.change, name, step, change, self._clock())
        return entry.experiment
