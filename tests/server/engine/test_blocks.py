import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bosal_server.engine.blocks import BlockAllocator, chain_hashes

BLOCK = 4


@dataclass
class Holder:
    """A sequence of the oracle: which content it wants in which block."""

    hashes: list[bytes]
    blocks: list[int] = field(default_factory=list)
    reserved: int = 0
    num_written: int = 0


def admit(pool: BlockAllocator, tokens: list[int], extra: int) -> Holder | None:
    """Hold a prompt the way the scheduler does; None if it does not fit."""
    holder = Holder(pool.hashes(tokens))
    shared = pool.match(holder.hashes)
    total = len(holder.hashes) + extra
    if total - len(shared) + pool.count_unheld(shared) > pool.num_available:
        return None
    pool.adopt(shared)
    pool.reserve(total - len(shared))
    holder.blocks = list(shared)
    for content in holder.hashes[len(shared) :]:
        block = pool.allocate()
        pool.announce(block, content, holder)
        holder.blocks.append(block)
    holder.reserved = extra
    return holder


def release(pool: BlockAllocator, holder: Holder, *, forget: bool = False) -> None:
    pool.release(holder.blocks, holder, forget=forget)
    pool.unreserve(holder.reserved)


def write_all(pool: BlockAllocator, holder: Holder) -> None:
    for block, content in zip(holder.blocks, holder.hashes, strict=False):
        if not pool.is_written(block):
            pool.publish(block, content)


def test_hashes_depend_on_every_token_before() -> None:
    tokens = list(range(12))
    hashes = chain_hashes(tokens, BLOCK, b"m")
    assert len(hashes) == 3
    for changed in range(12):
        other = tokens.copy()
        other[changed] += 1
        same = [a == b for a, b in zip(hashes, chain_hashes(other, BLOCK, b"m"), strict=True)]
        assert same == [block < changed // BLOCK for block in range(3)]


def test_hashes_depend_on_the_salt() -> None:
    assert chain_hashes([1, 2, 3, 4], BLOCK, b"a") != chain_hashes([1, 2, 3, 4], BLOCK, b"b")


def test_hashes_go_on_from_a_parent() -> None:
    tokens = list(range(16))
    whole = chain_hashes(tokens, BLOCK, b"m")
    assert chain_hashes(tokens[8:], BLOCK, b"m", parent=whole[1]) == whole[2:]


def test_a_block_is_written_only_once_published() -> None:
    pool = BlockAllocator(8, BLOCK)
    first = admit(pool, [1] * 8, 0)
    assert first is not None
    assert pool.match(first.hashes) == first.blocks
    assert not any(pool.is_written(block) for block in first.blocks)
    pool.publish(first.blocks[0], first.hashes[0])
    assert [pool.is_written(block) for block in first.blocks] == [True, False]


def test_a_follower_takes_over_when_the_writer_leaves() -> None:
    pool = BlockAllocator(8, BLOCK)
    writer = admit(pool, [1] * 8, 0)
    follower = admit(pool, [1] * 8 + [2] * 4, 0)
    assert writer is not None
    assert follower is not None
    assert pool.claim(writer.blocks[0], writer)
    assert not pool.claim(writer.blocks[0], follower)
    release(pool, writer)
    assert pool.claim(follower.blocks[0], follower)
    assert not pool.claim(follower.blocks[0], writer)


def test_unwritten_blocks_are_not_findable_afterwards() -> None:
    pool = BlockAllocator(8, BLOCK)
    writer = admit(pool, [1] * 8, 0)
    assert writer is not None
    pool.publish(writer.blocks[0], writer.hashes[0])
    release(pool, writer)
    assert len(pool.match(writer.hashes)) == 1
    assert pool.num_free == 7


def test_forgotten_blocks_are_not_findable_unless_held() -> None:
    pool = BlockAllocator(8, BLOCK)
    first = admit(pool, [1] * 8, 0)
    assert first is not None
    write_all(pool, first)
    second = admit(pool, [1] * 4, 0)
    assert second is not None
    release(pool, first, forget=True)
    assert len(pool.match(first.hashes)) == 1
    assert pool.num_free == 7


def test_the_tail_of_the_oldest_content_is_evicted_first() -> None:
    pool = BlockAllocator(4, BLOCK)
    old = admit(pool, [1] * 8, 0)
    assert old is not None
    write_all(pool, old)
    release(pool, old)
    new = admit(pool, [2] * 4, 0)
    assert new is not None
    write_all(pool, new)
    release(pool, new)
    assert admit(pool, [3] * 8, 0) is not None
    assert len(pool.match(old.hashes)) == 1
    assert len(pool.match(new.hashes)) == 1


def test_pinned_content_outlives_newer_content_but_blocks_nobody() -> None:
    pool = BlockAllocator(8, BLOCK)
    scaffold = admit(pool, [1] * 8, 0)
    assert scaffold is not None
    write_all(pool, scaffold)
    pool.pin(scaffold.hashes)
    release(pool, scaffold)
    for token in range(2, 12):
        other = admit(pool, [token] * 16, 0)
        assert other is not None
        write_all(pool, other)
        release(pool, other)
    assert len(pool.match(scaffold.hashes)) == 2
    whole = admit(pool, [99] * 32, 0)
    assert whole is not None
    assert pool.match(scaffold.hashes) == []


def test_pins_are_bounded() -> None:
    pool = BlockAllocator(16, BLOCK)
    for token in range(8):
        holder = admit(pool, [token] * 8, 0)
        assert holder is not None
        write_all(pool, holder)
        pool.pin(holder.hashes)
        release(pool, holder)
    fresh = admit(pool, [50] * 48, 0)
    assert fresh is not None
    survivors = [len(pool.match(pool.hashes([token] * 8))) for token in range(8)]
    assert survivors == [0, 0, 0, 0, 0, 0, 2, 2]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), num_blocks=st.integers(4, 40))
def test_random_use_leaks_nothing_and_never_mixes_content(seed: int, num_blocks: int) -> None:
    chance = random.Random(seed)
    pool = BlockAllocator(num_blocks, BLOCK, b"salt")
    holders: list[Holder] = []
    content: dict[int, bytes] = {}  # what was last written into each block
    for _ in range(400):
        action = chance.random()
        if action < 0.4:
            length = chance.randrange(0, 6 * BLOCK)
            stem = [chance.randrange(2)] * length
            tokens = stem + [chance.randrange(3) for _ in range(chance.randrange(8))]
            holder = admit(pool, tokens, chance.randrange(4))
            if holder is not None:
                holders.append(holder)
        elif holders and action < 0.75:
            holder = chance.choice(holders)
            index = holder.num_written
            if index < len(holder.hashes):
                block, wanted = holder.blocks[index], holder.hashes[index]
                if pool.is_written(block):
                    assert content[block] == wanted
                    holder.num_written += 1
                elif pool.claim(block, holder):
                    content[block] = wanted
                    pool.publish(block, wanted)
                    holder.num_written += 1
            elif holder.reserved:
                block = pool.allocate()
                holder.reserved -= 1
                holder.blocks.append(block)
                content[block] = b"output"
        elif holders and action < 0.95:
            holder = holders.pop(chance.randrange(len(holders)))
            release(pool, holder, forget=chance.random() < 0.2)
        elif holders:
            pool.pin(chance.choice(holders).hashes)

        held = {block for holder in holders for block in holder.blocks}
        assert pool.num_held == len(held)
        assert pool.num_free + pool.num_findable + pool.num_held == num_blocks
        assert pool.num_reserved == sum(holder.reserved for holder in holders)
        assert pool.num_available >= 0
        for holder in holders:
            written = holder.blocks[: holder.num_written]
            assert [content[block] for block in written] == holder.hashes[: len(written)]
    for holder in holders:
        release(pool, holder)
    assert pool.num_held == pool.num_reserved == 0
    assert pool.num_available == num_blocks


def test_releasing_more_than_is_reserved_is_refused() -> None:
    pool = BlockAllocator(2, BLOCK)
    with pytest.raises(AssertionError):
        pool.reserve(3)


def test_a_salt_hides_all_but_the_open_tokens() -> None:
    pool = BlockAllocator(8, 4, b"model")
    tokens = list(range(12))
    nobodys, ours, theirs = (pool.hashes(tokens, salt) for salt in (b"", b"ours", b"theirs"))
    assert not set(nobodys) & set(ours)
    assert not set(ours) & set(theirs)
    # Two whole blocks lie within the nine open tokens; what follows differs again.
    open_ours, open_theirs = (
        pool.hashes(tokens, salt, num_unsalted=9) for salt in (b"ours", b"theirs")
    )
    assert open_ours[:2] == open_theirs[:2] == nobodys[:2]
    assert len({open_ours[2], open_theirs[2], nobodys[2]}) == 3
    # Another model's keys and values never match, whatever the salt.
    assert not set(ours) & set(BlockAllocator(8, 4, b"other").hashes(tokens, b"ours"))


def test_a_salted_prefix_of_a_text_is_that_of_the_longer_text() -> None:
    pool = BlockAllocator(8, 4, b"model")
    tokens = list(range(20))
    for num_unsalted in (0, 9, 20):
        long = pool.hashes(tokens, b"ours", num_unsalted=num_unsalted)
        assert pool.hashes(tokens[:13], b"ours", num_unsalted=num_unsalted) == long[:3]
