"""Run by its test under Triton's interpreter: what the benchmark times, on a CPU and untimed."""

from tests.kernels import interpreter  # noqa: F401, I001

from argparse import Namespace
from collections.abc import Callable, Sequence
from unittest import mock

import torch
from torch import Tensor

from benchmarks import kernel_timing
from benchmarks.harness import Report
from benchmarks.kernel_peers import Plain, Processors, peers
from benchmarks.kernel_scenarios import SCENARIOS, TYPES, Case, Scenario

ROWS, VOCABULARY = 2, 130


def support(kept: Tensor, ids: Tensor) -> list[set[int]]:
    """Return the ids that are kept, row by row."""
    rows = zip(kept, ids, strict=True)
    return [set(of_row[z > -torch.inf].tolist()) for z, of_row in rows]


def check(scenario: Scenario, dtype: torch.dtype) -> None:
    """Ours draws what the peers might have drawn, and they agree among themselves."""
    case = Case(scenario, ROWS, VOCABULARY, dtype, "cpu", num_inputs=1)
    (rows,) = case.inputs
    found = case.step(rows)
    assert found.status.tolist() == [0] * ROWS
    assert (found.logprobs is not None) == (scenario.logprobs >= 0)
    plain = Plain(case, sorts=True)
    z = plain.controlled(rows)
    scores = Processors(case).scores(rows)
    if scenario.is_greedy:
        assert torch.equal(found.tokens, z.argmax(-1))
        assert torch.equal(scores, z)
        return
    wanted = support(*plain.kept(z))
    assert wanted == support(*Plain(case, sorts=False).kept(z))
    theirs = support(scores, torch.arange(VOCABULARY).expand(ROWS, -1))
    if scenario.ngram:
        # Plain torch looks for no n-grams: others may be left there.
        assert all(len(row) > 0 for row in theirs)
    else:
        assert wanted == theirs
    drawn = [found.tokens.tolist()]
    for name, make in peers(case).items():
        if name in ("torch_sort", "torch_topk"):
            drawn.append(make().step(rows.clone()).tolist())
    for tokens in drawn:
        assert all(token in row for token, row in zip(tokens, wanted, strict=True)), tokens


def untimed(step: Callable[[Tensor], object], inputs: Sequence[Tensor]) -> Callable[[], float]:
    def run() -> float:
        for rows in inputs:
            step(rows)
        return 1.0

    return run


def check_report() -> None:
    """Figures have their names, and every contestant runs."""
    report = Report("kernels", Namespace(json=None))
    case = Case(SCENARIOS["everything"], 1, VOCABULARY, torch.bfloat16, "cpu", num_inputs=1)
    with (
        mock.patch.object(kernel_timing, "graph_timer", untimed),
        mock.patch.object(kernel_timing, "eager_timer", untimed),
        mock.patch.object(torch, "compile", lambda step, **_: step),
    ):
        kernel_timing.time_case(report, "everything", case, 1, 1e9)
    at = f"1x{VOCABULARY}_bf16"
    assert set(report.figures) == {f"control_over_floor_{at}", f"vs_processors_{at}"}
    for name in ("ours", "reduction", "torch_sort", "torch_topk", "torch_compile", "processors"):
        assert report.details[f"everything_{at}_{name}_us"] == 1


def check_failing_peer() -> None:
    """A peer that fails is named; ours and the others are timed all the same."""
    report = Report("kernels", Namespace(json=None))
    case = Case(SCENARIOS["everything"], 1, VOCABULARY, torch.bfloat16, "cpu", num_inputs=1)
    with (
        mock.patch.object(kernel_timing, "graph_timer", untimed),
        mock.patch.object(kernel_timing, "eager_timer", untimed),
        mock.patch.object(Processors, "step", side_effect=ValueError("no such bias")),
    ):
        kernel_timing.time_case(report, "everything", case, 1, 1e9, ["torch_sort", "processors"])
    at = f"everything_1x{VOCABULARY}_bf16"
    timed = {f"{at}_{name}_us" for name in ("ours", "reduction", "torch_sort")}
    assert set(report.details) == timed | {f"{at}_over_floor"}
    assert report.notes == {f"failed_{at}_processors": "ValueError: no such bias"}


for number, scenario_ in enumerate(SCENARIOS.values()):
    check(scenario_, list(TYPES.values())[number % 2])
check_report()
check_failing_peer()
