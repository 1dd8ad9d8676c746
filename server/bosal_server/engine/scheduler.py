"""Decides who is admitted and what each step computes.

Rule 1: each model's groups are admitted in the order of `WaitingQueues`, with their worst case
        and its shadows reserved, so an admitted group waits for neither and nothing is preempted.
        A group with streams on several models is admitted once it is first on all of them; a free
        slot goes to the oldest of the groups that could be admitted.
Rule 2: a group that is decoding is in every step with all its streams, or in none.
Rule 3: a group with several streams prefills each up to its last prompt token and parks there;
        once all are parked, their last tokens go in one step.
Rule 4: decoding groups come first; prefill chunks share what is left of the token budget, in the
        order of admission, and at least one block's worth always goes through.
Rule 5: a stream never computes a block that another stream is writing: it waits, and takes over
        if the writer leaves.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from bosal_server.engine.blocks import BlockAllocator
from bosal_server.engine.group import GroupState, Stream, StreamGroup
from bosal_server.engine.queues import WaitingQueues
from bosal_server.engine.scheduler_step import Packer, SchedulerStep
from bosal_server.engine.shadow_room import ShadowRoom
from bosal_server.errors import RequestTooLarge


class Scheduler:
    """Owns the queue, the running groups, their slots and their blocks. One thread only."""

    def __init__(
        self,
        allocators: Mapping[str, BlockAllocator],
        *,
        max_groups: int,
        max_batch_tokens: int,
        shadow_room: ShadowRoom | None = None,
    ) -> None:
        self.allocators = dict(allocators)
        self._block_sizes = {name: pool.block_size for name, pool in self.allocators.items()}
        self._max_batch_tokens = max_batch_tokens
        self._min_prefill_tokens = max(self._block_sizes.values())
        self._free_slots = list(range(max_groups - 1, -1, -1))
        self._shadow_room = shadow_room or ShadowRoom({})
        self._waiting = WaitingQueues(self.allocators)
        self._running: dict[StreamGroup, None] = {}  # in order of admission

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def running(self) -> list[StreamGroup]:
        return list(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def submit(self, group: StreamGroup) -> None:
        """Queue a group that `check_size` has let through."""
        for stream in group.streams:
            if not stream.hashes:
                pool = self.allocators[stream.model]
                # The last prompt token is always computed: its logits are needed.
                stream.hashes = pool.hashes(
                    stream.prompt[:-1], stream.cache_salt, num_unsalted=stream.num_unsalted_tokens
                )
        self._waiting.append(group)

    def remove(self, group: StreamGroup, *, keep: bool) -> None:
        """Take a group out, wherever it is.

        `keep` leaves what it computed findable; a group that failed may have computed rubbish.
        """
        if group.state is GroupState.WAITING:
            # It is not there if its submission failed.
            if group in self._waiting:
                self._waiting.remove(group)
        elif group.state is not GroupState.GONE:
            del self._running[group]
            self._free_slots.append(group.slot)
            self._shadow_room.give_back(group)
            for stream in group.streams:
                self._let_go(stream, keep=keep)
        group.state = GroupState.GONE

    def plan(self) -> SchedulerStep:
        """Fill the next step from the admitted groups."""
        packer = Packer()
        num_decode_tokens = 0
        for group in self._running:
            if group.state is GroupState.DECODING:
                num_decode_tokens += self._add_whole(packer, group)
        budget = max(self._max_batch_tokens - num_decode_tokens, self._min_prefill_tokens)
        for group in self._running:
            if budget <= 0:
                break
            if group.state is GroupState.PREFILLING:
                budget -= self._add_prefill(packer, group, budget)
        return packer.pack(self._block_sizes)

    def complete(self, step: SchedulerStep) -> None:
        """Record that the step's forward passes are done, but for groups that are gone."""
        for stream, num_tokens in step.scheduled:
            if stream.group.state is GroupState.GONE:
                continue
            stream.num_computed += num_tokens
            stream.num_forwards += num_tokens
            if stream.num_published < len(stream.hashes):
                self._publish(stream)
        for group in step.ready:
            if group.state is not GroupState.GONE:
                group.state = GroupState.DECODING

    def admit(self) -> list[StreamGroup]:
        """Admit from the heads of the queues whoever fits; return them."""
        admitted = []
        while self._free_slots:
            group = next(filter(self._fits, self._waiting.heads()), None)
            if group is None:
                break
            self._waiting.remove(group, was_admitted=True)
            group.slot = self._free_slots.pop()
            group.state = GroupState.PREFILLING
            self._shadow_room.take(group)
            for stream in group.streams:
                self._hold(stream)
            self._running[group] = None
            admitted.append(group)
        return admitted

    def _fits(self, group: StreamGroup) -> bool:
        if not self._shadow_room.has_room(group):
            return False
        needed: Counter[str] = Counter()
        for stream in group.streams:
            pool = self.allocators[stream.model]
            shared = pool.match(stream.hashes)
            needed[stream.model] += self._worst_case(stream) - len(shared)
            needed[stream.model] += pool.count_unheld(shared)
        return all(self.allocators[name].num_available >= n for name, n in needed.items())

    def _worst_case(self, stream: Stream) -> int:
        block_size = self._block_sizes[stream.model]
        return -(-(len(stream.prompt) + stream.max_tokens) // block_size)

    def _hold(self, stream: Stream) -> None:
        """Share the known prefix, announce the rest of the prompt, reserve room for the output."""
        pool = self.allocators[stream.model]
        stream.blocks = pool.match(stream.hashes)
        pool.adopt(stream.blocks)
        stream.reserved = self._worst_case(stream) - len(stream.blocks)
        pool.reserve(stream.reserved)
        for content in stream.hashes[len(stream.blocks) :]:
            block = self._allocate(stream)
            pool.announce(block, content, stream)
        pool.pin(stream.hashes[: stream.num_pinned_tokens // pool.block_size])

    def _allocate(self, stream: Stream) -> int:
        block = self.allocators[stream.model].allocate()
        stream.blocks.append(block)
        stream.reserved -= 1
        return block

    def _let_go(self, stream: Stream, *, keep: bool) -> None:
        pool = self.allocators[stream.model]
        if keep:
            self._publish_output(stream)
        pool.release(stream.blocks, stream, forget=not keep)
        pool.unreserve(stream.reserved)
        stream.blocks = []
        stream.reserved = 0

    def _publish(self, stream: Stream) -> None:
        pool = self.allocators[stream.model]
        written = min(stream.num_computed // pool.block_size, len(stream.hashes))
        for i in range(stream.num_published, written):
            pool.publish(stream.blocks[i], stream.hashes[i])
        stream.num_published = max(stream.num_published, written)

    def _publish_output(self, stream: Stream) -> None:
        """Make the last prompt block and the output findable, for a conversation that goes on.

        Not earlier: a rollback may compute a block again with other tokens.
        """
        pool = self.allocators[stream.model]
        begin = len(stream.hashes) * pool.block_size
        end = stream.num_computed - stream.num_computed % pool.block_size
        if end <= begin:
            return
        hashes = pool.hashes(
            stream.tokens(0, end), stream.cache_salt, num_unsalted=stream.num_unsalted_tokens
        )[len(stream.hashes) :]
        for block, content in zip(stream.blocks[len(stream.hashes) :], hashes, strict=False):
            pool.publish(block, content)

    def _add_whole(self, packer: Packer, group: StreamGroup) -> int:
        """Schedule all that a group misses, with logits; return the number of tokens."""
        num_tokens = 0
        rows = []
        for stream in group.active:
            end = len(stream)
            num_tokens += end - stream.num_computed
            rows.append(self._add(packer, stream, end, num_logits=group.num_rows))
        packer.step.ready.append(group)
        packer.step.rows.append(tuple(rows))
        return num_tokens

    def _add_prefill(self, packer: Packer, group: StreamGroup, budget: int) -> int:
        """Schedule the next chunk of a group's prompts; return the number of tokens."""
        if group.guide is not None and not group.is_guiding and not group.guide.is_parked:
            # Not when it is first asked: whoever shares its prompt would wait for that.
            num_tokens = self._add_parts(packer, group.streams, budget)
            if num_tokens or not group.guide.is_parked:
                return num_tokens
        limits = [self._computable(stream, budget) for stream in group.active]
        missing = sum(stream.num_missing for stream in group.active)
        # A parked group may exceed the budget by its streams: it could be smaller than they are.
        if (missing <= budget or group.is_parked) and all(
            limit == len(stream) for limit, stream in zip(limits, group.active, strict=True)
        ):
            return self._add_whole(packer, group)
        return self._add_parts(packer, group.active, budget, limits)

    def _add_parts(
        self,
        packer: Packer,
        streams: Sequence[Stream],
        budget: int,
        limits: Sequence[int] | None = None,
    ) -> int:
        """Schedule what fits of some streams, up to their last token; return how many tokens."""
        if limits is None:
            limits = [self._computable(stream, budget) for stream in streams]
        num_tokens = 0
        for stream, limit in zip(streams, limits, strict=True):
            end = min(limit, len(stream) - 1, stream.num_computed + budget - num_tokens)
            if end > stream.num_computed:
                num_tokens += end - stream.num_computed
                self._add(packer, stream, end, num_logits=0)
        return num_tokens

    def _add(self, packer: Packer, stream: Stream, end: int, *, num_logits: int) -> int:
        num_blocks = -(-end // self._block_sizes[stream.model])
        while len(stream.blocks) < num_blocks:
            self._allocate(stream)
        return packer.add(stream, end, num_logits=num_logits)

    def _computable(self, stream: Stream, budget: int) -> int:
        """Skip what others have written; return up to where this stream may compute now."""
        pool = self.allocators[stream.model]
        block_size = pool.block_size
        num_shared = len(stream.hashes)
        index = stream.num_computed // block_size
        while (
            index < num_shared
            and stream.num_computed % block_size == 0
            and pool.is_written(stream.blocks[index])
        ):
            index += 1
            stream.num_computed += block_size
            stream.num_published = index
            stream.cached_tokens += block_size
        # No further than this step can reach: long prompts are asked about piece by piece.
        horizon = min(num_shared, index + budget // block_size + 2)
        while index < horizon and pool.claim(stream.blocks[index], stream):
            index += 1
        if index < horizon:
            return max(index * block_size, stream.num_computed)
        return len(stream) if horizon == num_shared else horizon * block_size


def check_size(
    pool: BlockAllocator, *, prompt_lengths: list[int], max_tokens: int, context_tokens: int
) -> None:
    """Refuse what could never be admitted; reads only what never changes, so any thread may call.

    Raises:
        RequestTooLarge: over the context or over the whole cache.
    """
    longest = max(prompt_lengths)
    if longest + max_tokens > context_tokens:
        raise RequestTooLarge(
            what="tokens of context",
            needed=longest + max_tokens,
            limit=context_tokens,
            prompt_tokens=longest,
            max_tokens=max_tokens,
        )
    num_blocks = sum(-(-(n + max_tokens) // pool.block_size) for n in prompt_lengths)
    if num_blocks > pool.num_blocks:
        raise RequestTooLarge(
            what="cache blocks",
            needed=num_blocks,
            limit=pool.num_blocks,
            prompt_tokens=sum(prompt_lengths),
            max_tokens=max_tokens,
            num_streams=len(prompt_lengths),
        )
