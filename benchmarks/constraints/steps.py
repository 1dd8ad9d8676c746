"""A decoding step with a constraint beside one without."""

import statistics
import time
from itertools import pairwise

from benchmarks import models
from benchmarks.constraints.cases import NESTED
from benchmarks.constraints.engine import Bench, Texts
from benchmarks.harness import Report, interleave, ratio
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_server.model import LoadedModel


def steps(report: Report, model: LoadedModel, compiler: ConstraintCompiler) -> None:
    """Time a decoding step with and without the nested schema, at batch 1 and 32."""
    constraint = Constraint.read({"json_schema": NESTED}, "")
    program = compiler.compile(constraint, model.vocabulary)
    bench = Bench(model, report.options.runner)
    new_tokens = 8 if report.options.quick else 48
    # A text long enough: the end and the closing bracket are out of reach.
    endless = [{"rule": "temperature", "value": 0}]
    for batch in (1, 32):

        def run(constrained: bool, batch: int = batch) -> float:
            plan = bench.plan(constraint if constrained else None, rules=endless)
            sinks = [Texts(1) for _ in range(batch)]
            for sink, prompt in zip(sinks, models.prompts(batch, 32, seed=batch), strict=True):
                allowed = program if constrained else None
                bench.submit(plan, allowed, prompt, sink, max_tokens=8 * new_tokens)
            deadline = time.perf_counter() + 300
            while not all(one.times for one in sinks):
                time.sleep(0.005)
                assert time.perf_counter() < deadline
            bench.deliveries.clear()
            while len(bench.deliveries) < new_tokens:
                time.sleep(0.005)
                assert time.perf_counter() < deadline
            assert not any(one.done.is_set() for one in sinks), "a text came to its end"
            bench.cancel_last(batch)
            return _step_seconds(bench.deliveries[:new_tokens])

        samples = interleave(
            {"constrained": lambda: run(True), "free": lambda: run(False)}, report.options.rounds
        )
        report.detail(f"constrained_step_500m_b{batch}_seconds", samples["constrained"])
        report.detail(f"free_step_500m_b{batch}_seconds", samples["free"])
        value = ratio(samples, "constrained", "free")
        report.figure(f"constrained_step_500m_b{batch}", value)
    report.figure(
        "constrained_step_500m",
        max(report.figures[f"constrained_step_500m_b{batch}"] for batch in (1, 32)),
    )
    bench.loop.stop()


def _step_seconds(deliveries: list[tuple[float, bool]]) -> float:
    """Return the median time of a step that reads one token for each choice.

    Tokens that the constraint dictated at the end of a step make the next one longer; such steps
    do not count.
    """
    return statistics.median(
        later - earlier for (earlier, grew), (later, _) in pairwise(deliveries) if not grew
    )
