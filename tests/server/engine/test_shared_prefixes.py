"""What groups find in the cache of what others, or they themselves, computed."""

from bosal_server.engine.group import Stream, StreamGroup

from .simulation import make_group, make_simulation, run


def test_a_group_may_share_a_prefix_with_itself() -> None:
    simulation = make_simulation()
    stem = list(range(16))
    simulation.scheduler.submit(make_group("g", [stem, [*stem, 90, 91, 92]], 3))
    assert run(simulation) == ["g"]


def test_equal_prompts_are_computed_once() -> None:
    simulation = make_simulation(max_batch_tokens=64)
    prompt = list(range(18))
    for index in range(5):
        simulation.scheduler.submit(make_group(f"r{index}", [prompt], 1))
    run(simulation)
    # The four full blocks once, the two tokens behind them by everybody.
    assert simulation.num_computed == 16 + 5 * 2


def test_the_whole_prompt_is_never_taken_from_the_cache() -> None:
    simulation = make_simulation()
    prompt = list(range(16))
    for name in ("first", "second"):
        group = make_group(name, [prompt], 1)
        simulation.scheduler.submit(group)
        run(simulation)
    assert group.streams[0].cached_tokens == 12
    assert simulation.num_computed == 16 + 4


def test_a_conversation_finds_its_own_answer_in_the_cache() -> None:
    simulation = make_simulation()
    first = make_group("first", [list(range(6))], 8)
    simulation.scheduler.submit(first)
    run(simulation)
    again = make_group("again", [[*range(6), *first.output, 50, 51]], 2)
    simulation.scheduler.submit(again)
    run(simulation)
    assert again.streams[0].cached_tokens == 12


def test_a_waiting_group_goes_on_when_the_writer_is_cancelled() -> None:
    simulation = make_simulation(max_batch_tokens=6)
    prompt = list(range(30))
    writer, follower, third = (make_group(name, [prompt], 2) for name in "wft")
    for group in (writer, follower, third):
        simulation.scheduler.submit(group)
    simulation.step()
    assert writer.streams[0].num_computed == 6
    assert follower.streams[0].num_computed == 0
    simulation.scheduler.remove(writer, keep=True)
    assert sorted(run(simulation)) == ["f", "t"]
    assert simulation.scheduler.allocators["m"].num_held == 0


def test_a_pinned_scaffold_survives_other_traffic() -> None:
    simulation = make_simulation(num_blocks=24)
    scaffold = list(range(200, 216))
    pinning = StreamGroup("pin", 0, [Stream("m", [*scaffold, 1], 18)], 2)
    simulation.scheduler.submit(pinning)
    run(simulation)
    for index in range(8):
        simulation.scheduler.submit(make_group(str(index), [range(index, index + 50)], 10))
        run(simulation)
    late = make_group("late", [[*scaffold, 7, 8]], 2)
    simulation.scheduler.submit(late)
    run(simulation)
    assert late.streams[0].cached_tokens == 16
