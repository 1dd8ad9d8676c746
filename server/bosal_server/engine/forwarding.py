"""Runs a step's forward passes, and finds out whose fault it is when one fails."""

import logging
from collections.abc import Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor

from bosal_server.engine.group import StreamGroup
from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.scheduler_step import SchedulerStep
from bosal_server.engine.step import StepPlan

_LOG = logging.getLogger(__name__)


class Forwarding:
    """Computes every model's batch of a step.

    A batch that fails, for want of memory for one long prompt say, is halved until what fails is
    one group's; the others get their logits. Computing a token twice is harmless: its keys and
    values are written again where they were. A device that is lost is lost for all.
    """

    def __init__(self, runners: Mapping[str, ModelRunner]) -> None:
        self._runners = dict(runners)
        # Groups that could not be computed since the last `take_failed`.
        self._failed: list[StreamGroup] = []

    def run(self, step: SchedulerStep) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return logits [rows, vocabulary] and seconds by model; a model may have no logits."""
        logits: dict[str, Tensor] = {}
        seconds: dict[str, float] = {}
        for name in step.plans:
            started = perf_counter()
            computed = self.forward(name, step)
            if computed is not None:
                logits[name] = computed
            seconds[name] = perf_counter() - started
        return logits, seconds

    def forward(self, model: str, step: SchedulerStep) -> Tensor | None:
        """Return one model's logits; rows of a group that failed mean nothing."""
        plan = step.plans[model]
        try:
            return self._runners[model].forward(plan)
        except torch.AcceleratorError:
            raise
        except Exception:
            _LOG.exception("model '%s' failed in a forward pass", model)
        owners = [stream.group for stream, _ in step.scheduled if stream.model == model]
        return self._forward_apart(model, plan, owners)

    def take_failed(self) -> list[StreamGroup]:
        """Return the groups that could not be computed, once."""
        failed, self._failed = self._failed, []
        return failed

    def _forward_apart(
        self, model: str, plan: StepPlan, owners: Sequence[StreamGroup]
    ) -> Tensor | None:
        """Compute both halves of a batch that failed as a whole; None if nothing is left of it."""
        groups = list(dict.fromkeys(owners))
        if len(groups) == 1:
            self._failed += groups
            return None
        whole: Tensor | None = None
        middle = len(groups) // 2
        for half in (set(groups[:middle]), set(groups[middle:])):
            members = [i for i, group in enumerate(owners) if group in half]
            part, rows = plan.only(members)
            try:
                logits: Tensor | None = self._runners[model].forward(part)
            except torch.AcceleratorError:
                raise
            except Exception as error:
                _LOG.warning("model '%s' failed for %d groups: %s", model, len(half), error)
                logits = self._forward_apart(model, part, [owners[i] for i in members])
            if logits is None:
                continue
            if whole is None:
                whole = logits.new_zeros(len(plan.logits_rows), logits.shape[1])
            whole[torch.from_numpy(rows)] = logits
        return whole
