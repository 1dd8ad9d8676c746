import copy
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event, get_ident
from typing import Any

import pytest
import torch

from bosal_decoding.plan import Plan
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.request import EngineEvent, EngineRequest, FailedEvent
from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.step import StepPlan
from bosal_server.errors import (
    EngineStopped,
    InternalFault,
    QueueFull,
    RequestCancelled,
    RequestTooLarge,
    UnknownModel,
)
from bosal_server.model import LoadedModel

from .conftest import Answer, Bench, MakeModel, make_prompt

MakePlan = Callable[..., Plan]


class GatedRunner:
    """A runner whose forward passes wait until the test lets them through."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.gate = Event()
        self.gate.set()
        self.is_waiting = Event()
        self.is_closed = False
        self.kind = runner.kind
        self.dtype = runner.dtype
        self.device = runner.device
        self.vocab_size = runner.vocab_size
        self.block_size = runner.block_size
        self.num_blocks = runner.num_blocks

    def forward(self, plan: StepPlan) -> torch.Tensor:
        self.is_waiting.set()
        assert self.gate.wait(30)
        return self._runner.forward(plan)

    def close(self) -> None:
        self.is_closed = True
        self._runner.close()


class Desk:
    """An engine in its thread, and who gets its answers."""

    def __init__(self, model: EngineModel, plan: Plan, **config: Any) -> None:
        self.runner = GatedRunner(model.runner)
        self.plan = plan
        self.batches: list[list[tuple[object, EngineEvent]]] = []
        self.threads: set[int] = set()
        self.loop = EngineLoop(
            {"tiny": replace(model, runner=self.runner)}, EngineConfig(**config), self._deliver
        )

    def _deliver(self, batch: list[tuple[object, EngineEvent]]) -> None:
        self.threads.add(get_ident())
        self.batches.append(batch)
        for sink, event in batch:
            assert isinstance(sink, Answer)
            sink.events.append(event)

    def submit(self, request_id: str, prompt: list[int], **options: Any) -> Answer:
        answer = Answer()
        request = EngineRequest(
            request_id=request_id,
            model=options.pop("model", "tiny"),
            plan=self.plan,
            prompts=(make_prompt(prompt),),
            seed=0,
            max_tokens=options.pop("max_tokens", 10),
            **options,
        )
        self.loop.submit(request, answer)
        return answer

    def wait(self, *answers: Answer) -> None:
        until = time.monotonic() + 30
        while not all(answer.is_over for answer in answers):
            assert time.monotonic() < until
            time.sleep(0.002)


@pytest.fixture
def make_desk(
    tiny_llama: LoadedModel, make_plan: MakePlan, engine_model: MakeModel
) -> Iterator[Callable[..., Desk]]:
    interval = sys.getswitchinterval()
    desks: list[Desk] = []

    def make(**config: Any) -> Desk:
        desk = Desk(engine_model(tiny_llama, cache_tokens=1024), make_plan(), **config)
        desks.append(desk)
        desk.loop.start()
        return desk

    yield make
    for desk in desks:
        desk.runner.gate.set()
        desk.loop.stop()
    sys.setswitchinterval(interval)


def test_requests_from_many_threads_get_their_own_answers(
    make_desk: Callable[..., Desk], make_bench: Callable[..., Bench], make_plan: MakePlan
) -> None:
    desk = make_desk()
    prompts = [[1 + i, 2, 3 + i % 5] * (1 + i % 7) for i in range(40)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: desk.submit(f"r{i}", prompts[i]), range(40)))
    desk.wait(*answers)
    bench = make_bench()
    expected = [bench.submit(make_plan(), prompt, max_tokens=10) for prompt in prompts]
    bench.run()
    assert [answer.tokens() for answer in answers] == [answer.tokens() for answer in expected]
    assert len(desk.threads) == 1
    assert desk.threads != {get_ident()}


def test_a_step_is_delivered_once(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.runner.gate.clear()
    answers = [desk.submit("r0", [1, 2])]
    assert desk.runner.is_waiting.wait(30)
    answers += [desk.submit(f"r{i}", [i, 2]) for i in range(1, 6)]
    desk.runner.gate.set()
    desk.wait(*answers)
    assert max(len(batch) for batch in desk.batches) >= 6
    for batch in desk.batches:
        tokens = [id(sink) for sink, event in batch if hasattr(event, "token_ids")]
        assert len(tokens) == len(set(tokens))


def test_a_full_queue_is_refused_with_a_time_to_come_back(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk(max_groups=1, max_waiting=2)
    desk.runner.gate.clear()
    running = desk.submit("running", [1, 2])
    assert desk.runner.is_waiting.wait(30)
    waiting = [desk.submit(f"w{i}", [3, 4]) for i in range(2)]
    with pytest.raises(QueueFull) as caught:
        desk.submit("late", [5, 6])
    assert 0.1 <= caught.value.retry_after <= 30
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    desk.runner.gate.set()
    desk.wait(running, *waiting)
    desk.wait(desk.submit("later", [5, 6]))


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


def test_an_engine_has_work_from_submission_to_the_last_token(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk()
    desk.runner.gate.clear()
    assert not desk.loop.has_work
    answer = desk.submit("a", [1, 2, 3], max_tokens=1)
    assert desk.loop.has_work
    assert desk.runner.is_waiting.wait(30)
    # In its first step; what the last one left behind says otherwise.
    assert desk.loop.stats().running == 0
    assert desk.loop.has_work
    desk.runner.gate.set()
    desk.wait(answer)
    desk.loop.stop()
    assert not desk.loop.has_work


def test_a_cancelled_request_leaves_its_place_in_the_queue(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk(max_groups=1, max_waiting=1)
    desk.runner.gate.clear()
    running = desk.submit("running", [1, 2], max_tokens=200)
    assert desk.runner.is_waiting.wait(30)
    waiting = desk.submit("waiting", [3, 4])
    desk.loop.cancel("waiting")
    desk.loop.cancel("never heard of")
    desk.runner.gate.set()
    desk.wait(waiting)
    assert isinstance(waiting.error, RequestCancelled)
    next_one = desk.submit("next", [5, 6])
    desk.loop.cancel("running")
    desk.wait(running, next_one)
    assert next_one.tokens()
    stats = desk.loop.stats()
    assert (stats.running, stats.waiting, stats.waiting_requests) == (0, 0, 0)
    assert stats.blocks["tiny"].used == 0
    assert stats.blocks["tiny"].free + stats.blocks["tiny"].findable == 32


def test_an_id_in_use_is_refused_and_the_first_goes_on(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(max_waiting=1)
    desk.runner.gate.clear()
    first = desk.submit("same", [1, 2], max_tokens=20)
    assert desk.runner.is_waiting.wait(30)
    second = desk.submit("same", [3, 4])
    desk.runner.gate.set()
    desk.wait(first, second)
    assert second.error.code == "ALREADY_EXISTS"
    assert len(first.tokens()) == 20
    desk.wait(desk.submit("same", [3, 4]))


def test_a_plan_for_another_vocabulary_is_refused(
    make_desk: Callable[..., Desk], tiny_llama: LoadedModel
) -> None:
    desk = make_desk()
    other = copy.copy(tiny_llama.vocabulary)
    other.digest = "other"
    desk.plan = replace(desk.plan, vocabulary=other)
    with pytest.raises(ValueError, match="not compiled for model 'tiny'"):
        desk.submit("r", [1])


def test_the_engine_says_whether_it_lives(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    assert desk.loop.is_alive
    desk.loop.stop()
    assert not desk.loop.is_alive


def test_impossible_requests_are_refused_at_once(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    with pytest.raises(RequestTooLarge, match="context"):
        desk.submit("long", [1] * 400, max_tokens=200)
    with pytest.raises(UnknownModel, match="did you mean 'tiny'"):
        desk.submit("other", [1], model="tinny")
    assert desk.loop.stats().waiting_requests == 0


def test_a_request_larger_than_the_cache_is_refused(
    tiny_llama: LoadedModel, make_plan: MakePlan, engine_model: MakeModel
) -> None:
    desk = Desk(engine_model(tiny_llama, cache_tokens=128), make_plan())
    with pytest.raises(RequestTooLarge, match="5 cache blocks, of which there are 4"):
        desk.submit("large", [1] * 120, max_tokens=20)
    desk.loop.stop()


def test_deadlines_are_kept_without_help(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    answer = desk.submit("r", [1, 2], max_tokens=500, deadline=time.monotonic())
    desk.wait(answer)
    assert answer.error.code == "DEADLINE_EXCEEDED"


def test_stopping_drains_then_fails_the_rest(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(max_groups=1)
    short = desk.submit("short", [1, 2], max_tokens=3)
    desk.loop.stop(drain_seconds=30)
    assert len(short.tokens()) == 3
    assert desk.runner.is_closed
    with pytest.raises(EngineStopped):
        desk.submit("late", [1])


def test_stopping_at_once_answers_everybody(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(max_groups=1)
    desk.runner.gate.clear()
    answers = [desk.submit(f"r{i}", [1, 2], max_tokens=100) for i in range(3)]
    assert desk.runner.is_waiting.wait(30)
    desk.runner.gate.set()
    desk.loop.stop()
    for answer in answers:
        assert isinstance(answer.error, EngineStopped)


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


def test_starting_shortens_the_switch_interval(make_desk: Callable[..., Desk]) -> None:
    make_desk(switch_interval=0.001)
    assert sys.getswitchinterval() == pytest.approx(0.001)
