"""Key-value blocks of one model: who holds them, and which can be found again by content.

Rule 1: every block is free, held (refs > 0) or findable (refs == 0, indexed, written).
Rule 2: a block is announced under its hash when its writer is admitted and counts as written
        only once its keys and values exist; until then whoever shares it waits for the writer.
Rule 3: a block that is indexed is never written again with other tokens.
Rule 4: reservations never exceed free + findable blocks, so `allocate` cannot fail.
Rule 5: pinned content is evicted last, not never: a pin delays no admission.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

_DIGEST_BYTES = 16
_PINNED_SHARE = 4  # at most one block in four is pinned


def chain_hashes(
    token_ids: Sequence[int], block_size: int, salt: bytes, parent: bytes | None = None
) -> list[bytes]:
    """Hash every full block together with all tokens before it; `parent` is the block before."""
    data = np.asarray(token_ids, np.int32).tobytes()
    size = 4 * block_size
    if parent is None:
        parent = blake2b(salt, digest_size=_DIGEST_BYTES).digest()
    hashes = []
    for begin in range(0, len(data) - size + 1, size):
        parent = blake2b(parent + data[begin : begin + size], digest_size=_DIGEST_BYTES).digest()
        hashes.append(parent)
    return hashes


class PrefixIndex:
    """Finds blocks by content hash and knows who is writing those that are not ready."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._writers: dict[int, object | None] = {}

    def __len__(self) -> int:
        return len(self._block_of)

    def find(self, content: bytes) -> int | None:
        return self._block_of.get(content)

    def hash_of(self, block: int) -> bytes | None:
        return self._hash_of.get(block)

    def is_written(self, block: int) -> bool:
        return block in self._hash_of and block not in self._writers

    def is_pending(self, block: int) -> bool:
        return block in self._writers

    def writer(self, block: int) -> object | None:
        """Return who writes a pending block; None once that writer has gone."""
        return self._writers[block]

    def insert(self, block: int, content: bytes, writer: object | None) -> bool:
        """Index a block, as pending if there is a writer; False if the content is indexed."""
        if content in self._block_of:
            return False
        self._block_of[content] = block
        self._hash_of[block] = content
        if writer is not None:
            self._writers[block] = writer
        return True

    def set_writer(self, block: int, writer: object | None) -> None:
        self._writers[block] = writer

    def set_written(self, block: int) -> None:
        del self._writers[block]

    def remove(self, block: int) -> None:
        content = self._hash_of.pop(block, None)
        if content is not None:
            del self._block_of[content]
        self._writers.pop(block, None)


class BlockAllocator:
    """Hands out the blocks of one model's pool and keeps unused content findable."""

    def __init__(self, num_blocks: int, block_size: int, salt: bytes = b"") -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.salt = salt
        self._index = PrefixIndex()
        self._free = list(range(num_blocks - 1, -1, -1))
        self._refs = [0] * num_blocks
        self._findable: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._findable_pinned: OrderedDict[int, None] = OrderedDict()
        self._pins: OrderedDict[bytes, None] = OrderedDict()
        self._max_pins = num_blocks // _PINNED_SHARE
        self._reserved = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_findable(self) -> int:
        return len(self._findable) + len(self._findable_pinned)

    @property
    def num_held(self) -> int:
        return self.num_blocks - self.num_free - self.num_findable

    @property
    def num_reserved(self) -> int:
        return self._reserved

    @property
    def num_available(self) -> int:
        """Blocks that are neither held nor promised."""
        return self.num_free + self.num_findable - self._reserved

    def hashes(
        self, token_ids: Sequence[int], salt: bytes = b"", *, num_unsalted: int = 0
    ) -> list[bytes]:
        """Hash the full blocks; whoever has another salt finds only those of unsalted tokens."""
        if not salt:
            return chain_hashes(token_ids, self.block_size, self.salt)
        num_open = num_unsalted - num_unsalted % self.block_size
        hashes = chain_hashes(token_ids[:num_open], self.block_size, self.salt)
        before = hashes[-1] if hashes else self.salt
        parent = blake2b(before, digest_size=_DIGEST_BYTES, key=salt).digest()
        rest = token_ids[num_open:]
        return hashes + chain_hashes(rest, self.block_size, self.salt, parent=parent)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Return the blocks, written or pending, of the longest known prefix; holds nothing."""
        blocks: list[int] = []
        for content in hashes:
            block = self._index.find(content)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def count_unheld(self, blocks: Iterable[int]) -> int:
        """Count the blocks that adopting would take out of what is available."""
        return sum(self._refs[block] == 0 for block in blocks)

    def adopt(self, blocks: Iterable[int]) -> None:
        """Hold blocks that `match` found."""
        for block in blocks:
            if self._refs[block] == 0:
                self._findable.pop(block, None)
                self._findable_pinned.pop(block, None)
            self._refs[block] += 1

    def reserve(self, count: int) -> None:
        assert 0 <= count <= self.num_available, "admission must check num_available"
        self._reserved += count

    def unreserve(self, count: int) -> None:
        assert 0 <= count <= self._reserved
        self._reserved -= count

    def allocate(self) -> int:
        """Turn one reserved block into a held one; evict the oldest findable if none is free."""
        assert self._reserved > 0, "allocate needs a reservation"
        self._reserved -= 1
        if self._free:
            block = self._free.pop()
        else:
            queue = self._findable or self._findable_pinned
            block, _ = queue.popitem(last=False)
            self._index.remove(block)
        self._refs[block] = 1
        return block

    def announce(self, block: int, content: bytes, writer: object) -> None:
        """Let others find a held block that its writer is about to fill."""
        self._index.insert(block, content, writer)

    def publish(self, block: int, content: bytes) -> None:
        """Make a held block findable: its keys and values are written."""
        if self._index.is_pending(block):
            self._index.set_written(block)
        elif self._index.hash_of(block) is None:
            self._index.insert(block, content, None)

    def is_written(self, block: int) -> bool:
        return self._index.is_written(block)

    def claim(self, block: int, writer: object) -> bool:
        """Say whether `writer` is to fill this block now; a block whose writer left changes hands.

        False means somebody else is filling it.
        """
        if not self._index.is_pending(block):
            return not self._index.is_written(block)
        current = self._index.writer(block)
        if current is None:
            self._index.set_writer(block, writer)
            return True
        return current is writer

    def release(self, blocks: Sequence[int], holder: object, *, forget: bool = False) -> None:
        """Let go of a sequence's blocks; its last ones become the first to be evicted.

        `forget` frees at once what nobody else holds.
        """
        for block in reversed(blocks):
            self._refs[block] -= 1
            pending = self._index.is_pending(block)
            if self._refs[block] > 0:
                if pending and self._index.writer(block) is holder:
                    self._index.set_writer(block, None)
                continue
            content = self._index.hash_of(block)
            if content is None or pending or forget:
                self._index.remove(block)
                self._free.append(block)
            elif content in self._pins:
                self._findable_pinned[block] = None
            else:
                self._findable[block] = None

    def pin(self, hashes: Sequence[bytes]) -> None:
        """Prefer to keep this prefix; what was pinned longest ago is dropped beyond the limit."""
        for content in reversed(hashes):  # a tail without its head could not be found
            if content in self._pins:
                self._pins.move_to_end(content)
                continue
            self._pins[content] = None
            block = self._index.find(content)
            if block is not None and block in self._findable:
                del self._findable[block]
                self._findable_pinned[block] = None
            if len(self._pins) > self._max_pins:
                dropped, _ = self._pins.popitem(last=False)
                block = self._index.find(dropped)
                if block is not None and block in self._findable_pinned:
                    del self._findable_pinned[block]
                    self._findable[block] = None
