"""Who is let in, and in which order."""

import pytest

from bosal_server.engine.blocks import BlockAllocator
from bosal_server.engine.scheduler import check_size
from bosal_server.errors import RequestTooLarge

from .simulation import BLOCK, make_group, make_simulation, run


def test_admission_is_first_come_first_served() -> None:
    simulation = make_simulation(num_blocks=8)
    order = []
    simulation.scheduler.submit(make_group("a", [range(12)], 8))  # 5 of 8 blocks
    simulation.scheduler.submit(make_group("big", [range(50, 62)], 18))  # 8 blocks: must wait
    for index in range(3):
        simulation.scheduler.submit(make_group(f"small{index}", [[index]], 2))
    for _ in range(200):
        order += [group.request_id for group in simulation.scheduler.admit()]
        step = simulation.step()
        for group in step.ready:
            group.commit([1])
            if len(group.output) == group.max_tokens:
                simulation.scheduler.remove(group, keep=True)
    assert order == ["a", "big", "small0", "small1", "small2"]
    assert not simulation.scheduler.has_work


def test_a_full_cache_holds_up_its_own_model_alone() -> None:
    simulation = make_simulation(num_blocks=8, models=("full", "idle"))
    scheduler = simulation.scheduler
    scheduler.submit(make_group("running", [range(12)], 8, ("full",)))
    scheduler.submit(make_group("waiting", [range(50, 62)], 18, ("full",)))
    scheduler.submit(make_group("other", [[1, 2]], 2, ("idle",)))
    assert [group.request_id for group in scheduler.admit()] == ["running", "other"]
    assert sorted(run(simulation)) == ["other", "running", "waiting"]


def test_a_group_on_several_models_is_passed_on_none_of_them() -> None:
    simulation = make_simulation(num_blocks=8, models=("a", "b"))
    scheduler = simulation.scheduler
    scheduler.submit(make_group("first", [range(12)], 8, ("a",)))
    scheduler.submit(make_group("both", [range(50, 62)], 18, ("a", "b")))
    scheduler.submit(make_group("late", [[1, 2]], 2, ("b",)))
    assert [group.request_id for group in scheduler.admit()] == ["first"]
    assert run(simulation) == ["first", "both", "late"]


def test_a_slot_goes_to_the_oldest_that_fits() -> None:
    simulation = make_simulation(max_groups=1, models=("a", "b"))
    for name, model in (("1", "b"), ("2", "a"), ("3", "b"), ("4", "b"), ("5", "a")):
        simulation.scheduler.submit(make_group(name, [[1, 2]], 2, (model,)))
    assert run(simulation) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("prompts", "max_tokens", "needed", "limit"),
    [([90], 20, 110, 100), ([30, 30], 10, 20, 16), ([60], 5, 17, 16)],
)
def test_what_can_never_fit_is_refused_with_the_numbers(
    prompts: list[int], max_tokens: int, needed: int, limit: int
) -> None:
    pool = BlockAllocator(16, BLOCK)
    with pytest.raises(RequestTooLarge) as caught:
        check_size(pool, prompt_lengths=prompts, max_tokens=max_tokens, context_tokens=100)
    assert caught.value.metadata["needed"] == str(needed)
    assert caught.value.metadata["limit"] == str(limit)
    assert str(needed) in str(caught.value)
