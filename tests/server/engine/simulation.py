"""A scheduler over a cache that checks what it is asked to remember."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bosal_server.engine.blocks import BlockAllocator
from bosal_server.engine.group import GroupState, Stream, StreamGroup
from bosal_server.engine.scheduler import Scheduler
from bosal_server.engine.scheduler_step import SchedulerStep

BLOCK = 4


@dataclass
class Simulation:
    """A scheduler with a cache that remembers, for each place, the text up to that token."""

    scheduler: Scheduler
    cache: dict[tuple[str, int, int], tuple[int, ...]] = field(default_factory=dict)
    num_computed: int = 0

    def step(self) -> SchedulerStep:
        self.scheduler.admit()
        before = {
            id(stream): stream.num_computed
            for group in self.scheduler.running
            for stream in group.streams
        }
        step = self.scheduler.plan()
        streams = [stream for stream, _ in step.scheduled]
        assert len(streams) == len(set(map(id, streams)))
        writes: dict[tuple[str, int, int], tuple[int, ...]] = {}
        for stream, count in step.scheduled:
            assert count > 0
            text = (*stream.prompt, *stream.group.output)
            begin = stream.num_computed
            for position in range(begin):
                block = stream.blocks[position // BLOCK]
                known = self.cache[stream.model, block, position % BLOCK]
                assert known == text[: position + 1], "somebody else's keys and values"
            for position in range(begin, begin + count):
                place = (stream.model, stream.blocks[position // BLOCK], position % BLOCK)
                assert place not in writes, "two streams write one place"
                writes[place] = text[: position + 1]
        self.num_computed += len(writes)
        self.cache |= writes
        assert step.ready or step.scheduled or not self.scheduler.running or before
        self._check_gangs(step)
        self.scheduler.complete(step)
        return step

    def _check_gangs(self, step: SchedulerStep) -> None:
        scheduled = {id(stream): count for stream, count in step.scheduled}
        for group, rows in zip(step.ready, step.rows, strict=True):
            assert len(rows) == len(group.streams)
            for stream in group.streams:
                assert scheduled[id(stream)] == stream.num_missing
        for group in self.scheduler.running:
            if group.state is GroupState.DECODING:
                assert group in step.ready


def make_simulation(
    *,
    num_blocks: int = 64,
    max_groups: int = 8,
    max_batch_tokens: int = 16,
    models: Sequence[str] = ("m",),
) -> Simulation:
    pools = {name: BlockAllocator(num_blocks, BLOCK, name.encode()) for name in models}
    return Simulation(Scheduler(pools, max_groups=max_groups, max_batch_tokens=max_batch_tokens))


def make_group(
    name: str, prompts: Sequence[Sequence[int]], max_tokens: int, models: Sequence[str] = ("m",)
) -> StreamGroup:
    """Make a group with every prompt on every model."""
    streams = [Stream(model, prompt) for model in models for prompt in prompts]
    return StreamGroup(name, 0, streams, max_tokens)


def run(simulation: Simulation, *, limit: int = 1000) -> list[str]:
    """Decode everything greedily with made-up tokens; return the order of endings."""
    endings: list[str] = []
    for _ in range(limit):
        if not simulation.scheduler.has_work:
            return endings
        step = simulation.step()
        for group in step.ready:
            group.commit([len(group.output) % 7])
            if len(group.output) == group.max_tokens:
                simulation.scheduler.remove(group, keep=True)
                endings.append(group.request_id)
    raise AssertionError("the scheduler is stuck")
