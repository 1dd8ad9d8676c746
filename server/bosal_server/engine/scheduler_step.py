"""One step of the engine as the scheduler puts it together."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from bosal_server.engine.group import GroupState, Stream, StreamGroup
from bosal_server.engine.step import Chunk, StepPlan


@dataclass(slots=True)
class SchedulerStep:
    """One step of the engine: a packed batch per model, and whose logits come out of it."""

    plans: dict[str, StepPlan] = field(default_factory=dict)
    scheduled: list[tuple[Stream, int]] = field(default_factory=list)
    ready: list[StreamGroup] = field(default_factory=list)  # these get logits, `num_rows` a stream
    rows: list[tuple[int, ...]] = field(default_factory=list)  # first row in each stream's model
    # By model.
    prefill_tokens: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    decode_rows: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def groups_on(self, model: str) -> list[StreamGroup]:
        """Every group with a token on this model in this step, once each."""
        return list(
            dict.fromkeys(stream.group for stream, _ in self.scheduled if stream.model == model)
        )


class Packer:
    """Collects a step's chunks per model."""

    def __init__(self) -> None:
        self.step = SchedulerStep()
        self._chunks: dict[str, list[Chunk]] = {}
        self._num_rows: defaultdict[str, int] = defaultdict(int)

    def add(self, stream: Stream, end: int, *, num_logits: int) -> int:
        """Schedule a stream's tokens up to `end`; return its first row of logits, if it has any."""
        begin = stream.num_computed
        if stream.group.state is GroupState.DECODING:
            self.step.decode_rows[stream.model] += 1
        else:
            self.step.prefill_tokens[stream.model] += end - begin
        chunk = Chunk(stream.tokens(begin, end), begin, stream.blocks, num_logits)
        self._chunks.setdefault(stream.model, []).append(chunk)
        self.step.scheduled.append((stream, end - begin))
        row = self._num_rows[stream.model]
        self._num_rows[stream.model] += num_logits
        return row

    def pack(self, block_sizes: Mapping[str, int]) -> SchedulerStep:
        for model, chunks in self._chunks.items():
            self.step.plans[model] = StepPlan.pack(chunks, block_sizes[model])
        return self.step
