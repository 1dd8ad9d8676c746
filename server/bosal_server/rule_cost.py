"""How long a plan's rules take, apart from the model."""

from contextlib import closing
from statistics import median
from time import perf_counter
from typing import Final

import torch

from bosal_decoding.constraints.program import Program
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan

_WARM_UP: Final = 2
_STEPS: Final = 7


def control_seconds(plan: Plan, program: Program | None = None) -> float:
    """Measure what the rules take per token of one choice, on this CPU and random logits.

    `program` is the plan's constraint, compiled; its masks count as rules do. The
    median of a few steps: other work on the machine counts too.

    Raises:
        PluginFault: a rule of another package failed.
    """
    size = plan.vocabulary.size
    pipeline = Pipeline(size, 1)
    pipeline.slots.add(0, plan, history=[0], seed=0, choice=0, program=program)
    rows = torch.randn((_WARM_UP + _STEPS, 1, size), generator=torch.Generator().manual_seed(0))
    seconds = []
    with closing(pipeline):
        for row in rows:
            begin = perf_counter()
            token = int(pipeline.sample(pipeline.apply(row, [0])).tokens[0])
            for fault in pipeline.take_faults().values():
                raise fault
            if token < 0:  # The rules leave nothing; a request would end here.
                break
            pipeline.slots.commit([0], [[token]])
            seconds.append(perf_counter() - begin)
    return median(seconds[_WARM_UP:] or seconds or [0.0])
