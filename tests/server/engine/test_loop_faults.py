"""An engine loop in which something fails."""

import logging
import sys
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
import torch

from bosal_decoding.plan import Plan
from bosal_server.engine.request import EngineEvent, FailedEvent
from bosal_server.engine.step import StepPlan
from bosal_server.errors import (
    EngineStopped,
    InternalFault,
)
from bosal_server.model import LoadedModel

from .bench import MakeModel
from .desk import Desk

MakePlan = Callable[..., Plan]


def test_a_crash_answers_everybody_and_is_told(
    tiny_llama: LoadedModel,
    make_plan: MakePlan,
    caplog: pytest.LogCaptureFixture,
    engine_model: MakeModel,
) -> None:
    crashed = Event()
    desk = Desk(engine_model(tiny_llama, cache_tokens=1024), make_plan(), max_groups=1)
    desk.loop._on_crash = crashed.set
    gate = desk.runner.gate
    gate.clear()

    def crash(plan: StepPlan) -> torch.Tensor:
        desk.runner.is_waiting.set()
        gate.wait(30)
        raise SystemExit("a fault that is no exception")

    desk.runner.forward = crash  # type: ignore[method-assign]
    interval = sys.getswitchinterval()
    desk.loop.start()
    running = desk.submit("running", [1, 2])
    assert desk.runner.is_waiting.wait(30)
    waiting = desk.submit("waiting", [3, 4])
    with caplog.at_level(logging.CRITICAL):
        gate.set()
        desk.wait(running, waiting)
        assert crashed.wait(30)
    sys.setswitchinterval(interval)
    for answer in (running, waiting):
        (event,) = answer.events
        assert isinstance(event, FailedEvent)
        assert event.error.code == "UNAVAILABLE"
    assert "the engine crashed" in caplog.text
    assert not desk.loop.is_alive
    with pytest.raises(EngineStopped):
        desk.submit("late", [5, 6])


def test_a_lost_device_ends_the_engine_and_answers_everybody(
    tiny_llama: LoadedModel,
    make_plan: MakePlan,
    caplog: pytest.LogCaptureFixture,
    engine_model: MakeModel,
) -> None:
    crashed = Event()
    desk = Desk(engine_model(tiny_llama), make_plan(), switch_interval=None)
    desk.loop._on_crash = crashed.set

    def lose(plan: StepPlan) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    desk.runner.forward = lose  # type: ignore[method-assign]
    with caplog.at_level(logging.CRITICAL):
        answers = [desk.submit("one", [1, 2]), desk.submit("other", [3, 4])]
        desk.loop.start()
        assert crashed.wait(30)
        desk.wait(*answers)
    for answer in answers:
        (event,) = answer.events
        assert isinstance(event, FailedEvent)
        assert event.error.code == "UNAVAILABLE"
    assert "illegal memory access" in caplog.text
    assert not desk.loop.is_alive


def test_a_failing_delivery_does_not_stop_the_engine(
    tiny_llama: LoadedModel,
    make_plan: MakePlan,
    caplog: pytest.LogCaptureFixture,
    engine_model: MakeModel,
) -> None:
    desk = Desk(engine_model(tiny_llama), make_plan(), switch_interval=None)

    def lose(batch: list[tuple[object, EngineEvent]]) -> None:
        raise OSError("nobody listens")

    deliver, desk.loop._deliver = desk.loop._deliver, lose
    desk.loop.start()
    with caplog.at_level(logging.ERROR):
        desk.submit("lost", [1], max_tokens=1)
        until = time.monotonic() + 30
        while "delivering" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.002)
    desk.loop._deliver = deliver
    desk.wait(desk.submit("found", [1], max_tokens=2))
    desk.loop.stop()


def test_a_broken_step_fails_its_requests_and_the_engine_lives_on(
    make_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk()
    stepper = desk.loop._stepper
    plan = stepper._scheduler.plan
    stepper._scheduler.plan = lambda: 1 // 0  # type: ignore[assignment, method-assign, return-value]
    with caplog.at_level(logging.ERROR):
        broken = desk.submit("broken", [1])
        desk.wait(broken)
    assert isinstance(broken.error, InternalFault)
    stepper._scheduler.plan = plan  # type: ignore[method-assign]
    answer = desk.submit("whole", [1])
    desk.wait(answer)
    assert len(answer.tokens()) > 0
    assert desk.loop.stats().blocks["tiny"].used == 0


@pytest.mark.parametrize("place", ["at the door", "half way in"])
def test_a_message_that_fails_answers_its_request_and_harms_no_other(
    place: str,
    make_desk: Callable[..., Desk],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = make_desk(max_waiting=4, max_groups=2)
    roster = desk.loop._stepper.roster
    owner, name = (roster, "add") if place == "at the door" else (roster._scheduler, "submit")
    act = getattr(owner, name)

    def fail(what: Any) -> None:
        request = what.request if place == "at the door" else roster.of(what).request
        # Of three choices the first is in the queue already.
        if request.request_id == "poisoned" and getattr(what, "choice", 1) == 1:
            raise RuntimeError("injected")
        act(what)

    monkeypatch.setattr(owner, name, fail)
    neighbour = desk.submit("neighbour", [1, 2], max_tokens=20)
    poisoned = desk.submit("poisoned", [3, 4], num_choices=3)
    desk.wait(neighbour, poisoned)
    assert isinstance(poisoned.error, InternalFault)
    assert len(poisoned.events) == 1
    assert "request poisoned: a message could not be honoured" in caplog.text
    assert "left blocks behind" not in caplog.text
    assert neighbour.finished
    # Its id is free again, its place in the queue too.
    monkeypatch.undo()
    again = [desk.submit("poisoned", [3, 4])] + [desk.submit(f"n{i}", [5]) for i in range(3)]
    desk.wait(*again)
    assert all(answer.finished for answer in again)
