"""Masks and compilations over a wide vocabulary."""

import statistics
import time

import numpy as np

from benchmarks.constraints.cases import NESTED, SCHEMAS
from benchmarks.harness import Report, interleave, seconds
from bosal_decoding import Vocabulary
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler


def masks(report: Report, vocabulary: Vocabulary, compiler: ConstraintCompiler) -> None:
    """Time the fill of 32 rows at mixed positions, and single fills along random walks."""
    program = compiler.compile(Constraint.read({"json_schema": NESTED}, ""), vocabulary)
    rng = np.random.default_rng(3)
    # One object a row, for as long as there are masks, as the engine holds them.
    rows = list(np.zeros((32, vocabulary.size // 32 + 1), np.int32))
    states = [program.new_state() for _ in range(32)]
    singles = []
    for place, state in enumerate(states):
        for _ in range(place if not report.options.quick else 2):
            started = time.thread_time()
            state.allowed(rows[place])
            singles.append(time.thread_time() - started)
            legal = np.flatnonzero(np.unpackbits(rows[place].view(np.uint8), bitorder="little"))
            token = int(rng.choice(legal))
            if token in vocabulary.eos_ids:
                break
            state.advance(token)

    def fill() -> float:
        def every() -> None:
            for row, state in zip(rows, states, strict=True):
                state.allowed(row)

        return min(seconds(every) for _ in range(5))

    samples = interleave({"fill": fill}, report.options.rounds)
    report.detail("fill32_seconds", samples["fill"])
    report.figure("fill32_ms", statistics.median(samples["fill"]) * 1000)
    report.figure("fill_p99_ms", float(np.percentile(singles, 99)) * 1000)


def compilations(report: Report, vocabulary: Vocabulary) -> None:
    """Time compilations that no cache knows, from submission to the program."""
    compiler = ConstraintCompiler()
    compiler.prepare(vocabulary).result()
    compiler.compile(Constraint.read({"regex": "warm"}, ""), vocabulary)
    times = []
    for round_ in range(1 if report.options.quick else 6):
        for schema in SCHEMAS:
            fresh = {**schema, "description": f"round {round_}"}
            constraint = Constraint.read({"json_schema": fresh}, "")
            times.append(seconds(lambda c=constraint: compiler.compile(c, vocabulary)))  # type: ignore[misc]
        for pattern in (r"\d{4}-\d\d-\d\d", r"[a-z]+@[a-z]+\.com", r"(yes|no|maybe) [a-z ]{1,40}"):
            constraint = Constraint.read({"regex": f"{pattern}x{{{round_}}}"}, "")
            times.append(seconds(lambda c=constraint: compiler.compile(c, vocabulary)))  # type: ignore[misc]
    compiler.close()
    report.figure("compile_p50_ms", statistics.median(times) * 1000)
    report.figure("compile_p99_ms", float(np.percentile(times, 99)) * 1000)
