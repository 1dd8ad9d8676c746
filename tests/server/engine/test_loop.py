import copy
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import get_ident

import pytest

from bosal_decoding.plan import Plan
from bosal_server.errors import (
    EngineStopped,
    QueueFull,
    RequestCancelled,
    RequestTooLarge,
    UnknownModel,
)
from bosal_server.model import LoadedModel

from .bench import Bench, MakeModel
from .desk import Desk

MakePlan = Callable[..., Plan]


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


def test_starting_shortens_the_switch_interval(make_desk: Callable[..., Desk]) -> None:
    make_desk(switch_interval=0.001)
    assert sys.getswitchinterval() == pytest.approx(0.001)
