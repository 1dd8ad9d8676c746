"""A decoding step with a constraint beside one without."""

import statistics
import time

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
                # Log-probabilities of the chosen token keep fast-forwarding out of both.
                bench.submit(
                    plan,
                    program if constrained else None,
                    prompt,
                    sink,
                    max_tokens=new_tokens if not constrained else 200,
                    logprobs=0,
                )
            deadline = time.perf_counter() + 300
            while any(len(one.times) < new_tokens and not one.done.is_set() for one in sinks):
                time.sleep(0.005)
                assert time.perf_counter() < deadline
            bench.cancel_last(batch)
            times = [sink.times for sink in sinks if len(sink.times) > 4]
            return statistics.median(
                later - earlier
                for one in times
                for earlier, later in zip(one[1:new_tokens], one[2:new_tokens], strict=False)
            )

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
