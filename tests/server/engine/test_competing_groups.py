"""Groups of one to four streams on several models, some with guides, compete for room."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from bosal_server.engine.blocks import BlockAllocator
from bosal_server.engine.group import GroupState, GuideStream, Stream, StreamGroup
from bosal_server.engine.scheduler import Scheduler, check_size
from bosal_server.engine.scheduler_step import SchedulerStep
from bosal_server.errors import RequestTooLarge

BLOCK = 4
MODELS = ("a", "b", "c")


class Crowd:
    """Random arrivals, decoded with made-up tokens; every group gets its answer or is cancelled."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.pools = {
            name: BlockAllocator(self.chance.randrange(24, 60), BLOCK, name.encode())
            for name in MODELS
        }
        self.scheduler = Scheduler(
            self.pools,
            max_groups=self.chance.randrange(1, 9),
            max_batch_tokens=self.chance.randrange(1, 40),
        )
        self.stems = [[stem] * self.chance.randrange(1, 20) for stem in range(4)]
        self.alive: list[StreamGroup] = []
        # By model: in which order groups came, and were admitted.
        self.came: dict[str, list[StreamGroup]] = {name: [] for name in MODELS}
        self.admitted: dict[str, list[StreamGroup]] = {name: [] for name in MODELS}
        self.num_arrivals = self.num_refused = self.num_done = self.num_cancelled = 0

    def arrive(self) -> None:
        self.num_arrivals += 1
        chance = self.chance
        max_tokens = chance.randrange(1, 12)
        own = chance.sample(MODELS, chance.randrange(1, len(MODELS) + 1))
        streams: list[Stream] = [
            Stream(chance.choice(own), self.prompt()) for _ in range(chance.randrange(1, 5))
        ]
        rooms = [max_tokens] * len(streams)
        if chance.random() < 0.3:
            rooms.append(chance.randrange(12, 30))
            streams.append(GuideStream(chance.choice(own), self.prompt(), 0, rooms[-1]))
        if not self.fits(streams, rooms, max_tokens):
            self.num_refused += 1
            return
        group = StreamGroup(str(self.num_arrivals), 0, streams, max_tokens)
        self.scheduler.submit(group)
        self.alive.append(group)
        for name in group.models:
            self.came[name].append(group)

    def prompt(self) -> list[int]:
        tail = [self.chance.randrange(4) for _ in range(self.chance.randrange(6))]
        return [*self.chance.choice(self.stems), *tail]

    def fits(self, streams: Sequence[Stream], rooms: Sequence[int], max_tokens: int) -> bool:
        """As the engine's door does."""
        for name in dict.fromkeys(stream.model for stream in streams):
            lengths = [
                len(stream.prompt) + room - max_tokens
                for stream, room in zip(streams, rooms, strict=True)
                if stream.model == name
            ]
            try:
                check_size(
                    self.pools[name],
                    prompt_lengths=lengths,
                    max_tokens=max_tokens,
                    context_tokens=1000,
                )
            except RequestTooLarge:
                return False
        return True

    def cancel(self) -> None:
        """Whatever it is doing: waiting, prefilling, decoding, listening to its guide."""
        if not self.alive:
            return
        group = self.alive.pop(self.chance.randrange(len(self.alive)))
        if group.state is GroupState.WAITING:
            for name in group.models:
                self.came[name].remove(group)
        self.scheduler.remove(group, keep=self.chance.random() < 0.5)
        self.num_cancelled += 1

    def step(self) -> None:
        for group in self.scheduler.admit():
            for name in group.models:
                self.admitted[name].append(group)
        step = self.scheduler.plan()
        assert step.scheduled or not self.scheduler.has_work, "nobody moves"
        self.check_gangs(step)
        self.scheduler.complete(step)
        for group in step.ready:
            self.decide(group)

    def check_gangs(self, step: SchedulerStep) -> None:
        """A decoding group is in the step with all whose turn it is, and they are level."""
        counts = {id(stream): count for stream, count in step.scheduled}
        for group in self.scheduler.running:
            if group.state is GroupState.DECODING:
                assert group in step.ready
        for group, rows in zip(step.ready, step.rows, strict=True):
            assert len(rows) == len(group.active)
            for stream in group.active:
                assert counts[id(stream)] == stream.num_missing
            resting = [stream for stream in group.streams if stream not in group.active]
            assert not any(id(stream) in counts for stream in resting)

    def decide(self, group: StreamGroup) -> None:
        chance, guide = self.chance, group.guide
        if group.is_guiding:
            assert guide is not None
            if len(guide.own) < guide.max_tokens and chance.random() < 0.7:
                guide.own.append(chance.randrange(4))
            else:
                group.resume()
            return
        if guide is not None and chance.random() < 0.4:
            kept = guide.own[: chance.randrange(len(guide.own) + 1)]
            group.ask([*kept, *(1 for _ in range(chance.randrange(3)))][: guide.max_tokens - 1])
            return
        room = group.max_tokens - len(group.output)
        group.commit([chance.randrange(4) for _ in range(min(room, chance.choice([1, 1, 1, 3])))])
        if len(group.output) >= group.max_tokens:
            self.scheduler.remove(group, keep=True)
            self.alive.remove(group)
            self.num_done += 1
        elif chance.random() < 0.1:
            group.rollback(chance.randrange(1, len(group.output) + 1))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_nobody_starves_and_nothing_leaks(seed: int) -> None:
    """Some sixty arrivals in each example, thousands in all."""
    crowd = Crowd(seed)
    for _ in range(120):
        if crowd.chance.random() < 0.5:
            crowd.arrive()
        if crowd.chance.random() < 0.1:
            crowd.cancel()
        crowd.step()
    for _ in range(20_000):
        if not crowd.scheduler.has_work:
            break
        crowd.step()
    assert not crowd.scheduler.has_work, "somebody starved"
    assert crowd.admitted == crowd.came, "somebody was passed"
    assert crowd.num_arrivals == crowd.num_done + crowd.num_cancelled + crowd.num_refused
    for pool in crowd.pools.values():
        assert pool.num_held == pool.num_reserved == 0
        assert pool.num_free + pool.num_findable == pool.num_blocks
