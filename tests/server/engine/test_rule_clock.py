"""The time of batched stages, shared among rules."""

from collections.abc import Callable

import pytest

from bosal_decoding.plan import Plan
from bosal_server.engine.observer import NullObserver, StepReport
from bosal_server.engine.rule_clock import RuleClock

from .bench import Bench


def test_a_stage_is_shared_by_the_rules_that_act_in_it(make_plan: Callable[..., Plan]) -> None:
    shaped = make_plan({"rule": "presence_penalty", "value": 1.0}, {"rule": "top_k", "k": 3})
    both = make_plan({"rule": "presence_penalty", "value": 1.0}, {"rule": "min_tokens", "value": 1})
    clock = RuleClock()
    clock.add([("mine", shaped.rules), ("yours", both.rules)], [1.0, 6.0, 9.0], {})
    # Temperature 0 is in both; combining had nobody.
    assert clock.take() == pytest.approx(
        {
            ("mine", "presence_penalty"): 2.0,
            ("yours", "presence_penalty"): 2.0,
            ("yours", "min_tokens"): 2.0,
            ("mine", "temperature"): 3.0,
            ("yours", "temperature"): 3.0,
            ("mine", "top_k"): 3.0,
        }
    )
    assert clock.take() == {}


def test_a_rule_that_is_timed_by_itself_shares_nothing(make_plan: Callable[..., Plan]) -> None:
    rules = make_plan(
        {"rule": "presence_penalty", "value": 1.0}, {"rule": "min_tokens", "value": 1}
    )
    clock = RuleClock()
    clock.add([("", rules.rules)], [0.0, 6.0, 0.0], {"min_tokens": 5.0})
    found = clock.take()
    assert (found["", "min_tokens"], found["", "presence_penalty"]) == (5.0, 1.0)


def test_steps_report_the_seconds_of_their_rules(
    make_bench: Callable[..., Bench], make_plan: Callable[..., Plan]
) -> None:
    reports: list[StepReport] = []

    class Watch(NullObserver):
        def step(self, report: StepReport) -> None:
            reports.append(report)

    bench = make_bench(observer=Watch())
    bench.submit(make_plan({"rule": "presence_penalty", "value": 1.0}), [5, 6], max_tokens=4)
    bench.run()
    assert len(reports) == 4
    for report in reports:
        assert set(report.rule_s) == {("", "presence_penalty"), ("", "temperature")}
        assert 0 < sum(report.rule_s.values()) <= report.control_s
