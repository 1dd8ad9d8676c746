"""Which blocks sequences share, against tables compared one by one, and what takes their place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bosal_server.engine.shared_prefix import find_shared_prefix
from bosal_server.engine.step import Chunk, StepPlan

SIZE = 4


def plan_of(*tables: list[int], past_lens: list[int] | None = None) -> StepPlan:
    """Make a step of one new token for each table, which is full but for one place."""
    lengths = past_lens or [len(table) * SIZE - 1 for table in tables]
    return StepPlan.pack(
        [Chunk([7], past, table, True) for past, table in zip(lengths, tables, strict=True)], SIZE
    )


def test_all_of_it_is_found() -> None:
    plan = plan_of([4, 9, 2, 10], [4, 9, 2, 11], [4, 9, 2, 12])
    found = find_shared_prefix(plan, SIZE, 1)
    assert found is not None
    assert found.blocks.tolist() == [4, 9, 2]
    assert found.sequences.tolist() == [0, 1, 2]


def test_a_block_that_is_written_to_is_no_part_of_it() -> None:
    plan = plan_of([4, 9], [4, 9], past_lens=[7, 7])
    found = find_shared_prefix(plan, SIZE, 1)
    assert found is not None
    assert found.blocks.tolist() == [4]


def test_many_shallow_or_few_deep_whichever_spares_more() -> None:
    deep = [[1, 2, 3, 4, 5, 6, 20 + row] for row in range(2)]
    shallow = [[1, 30 + row] for row in range(3)]
    found = find_shared_prefix(plan_of(*deep, *shallow), SIZE, 1)
    assert found is not None
    assert (found.blocks.tolist(), found.sequences.tolist()) == ([1, 2, 3, 4, 5, 6], [0, 1])
    shallow += [[1, 2, 40 + row] for row in range(8)]
    found = find_shared_prefix(plan_of(*deep, *shallow), SIZE, 1)
    assert found is not None
    assert (found.blocks.tolist(), len(found.sequences)) == ([1, 2], 10)


def test_prompts_and_strangers_stay_out() -> None:
    chunks = [
        Chunk([7], 11, [1, 2, 3], True),
        Chunk([7, 7], 10, [1, 2, 4], True),
        Chunk([7], 11, [5, 6, 8], True),
        Chunk([7], 11, [1, 2, 9], True),
    ]
    plan = StepPlan.pack(chunks, SIZE)
    found = find_shared_prefix(plan, SIZE, 1)
    assert found is not None
    assert (found.blocks.tolist(), found.sequences.tolist()) == ([1, 2], [0, 3])


def test_what_spares_too_little_is_none() -> None:
    plan = plan_of([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 6])
    assert find_shared_prefix(plan, SIZE, 6) is not None
    assert find_shared_prefix(plan, SIZE, 7) is None
    assert find_shared_prefix(plan_of([1, 2], [3, 4]), SIZE, 1) is None
    assert find_shared_prefix(plan_of([1, 2]), SIZE, 1) is None


tables = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(1, 2)),
    min_size=1,
    max_size=6,
)


@given(rows=tables)
def test_whatever_is_found_is_shared_and_the_rest_stays(
    rows: list[tuple[list[int], int]],
) -> None:
    chunks = [Chunk([7] * size, len(table) * SIZE - size, table, True) for table, size in rows]
    plan = StepPlan.pack(chunks, SIZE)
    found = find_shared_prefix(plan, SIZE, 1)
    if found is None:
        return
    depth = len(found.blocks)
    rest = found.replaced(plan, 99, SIZE)
    for i, chunk in enumerate(chunks):
        begin, end = rest.block_indices_begins[i : i + 2]
        left = rest.block_indices[begin:end].tolist()
        if i in found.sequences:
            assert len(chunk.token_ids) == 1
            assert chunk.past_len >= depth * SIZE
            assert left[0] == 99
            assert [*found.blocks.tolist(), *left[1:]] == list(chunk.blocks)
            assert rest.past_lens[i] == chunk.past_len - (depth - 1) * SIZE
        else:
            assert left == list(chunk.blocks)
            assert rest.past_lens[i] == chunk.past_len
    assert rest.positions.tolist() == plan.positions.tolist()
    lengths = rest.past_lens + np.diff(rest.subsequence_begins)
    assert rest.max_context_len == lengths.max()


@given(rows=tables)
def test_nothing_that_spares_more_goes_unseen_along_the_first_table(
    rows: list[tuple[list[int], int]],
) -> None:
    plan = plan_of(*(table for table, _ in rows), past_lens=[len(t) * SIZE - 1 for t, _ in rows])
    decoding = [table[:-1] for table, _ in rows]
    found = find_shared_prefix(plan, SIZE, 1)
    firsts = [table[0] for table in decoding if table] or [0]
    most = max(sorted(set(firsts)), key=firsts.count)
    same = [table for table in decoding if table[:1] == [most]]
    best = max(
        (
            depth * (sum(table[:depth] == same[0][:depth] for table in same) - 1)
            for table in same[:1]
            for depth in range(1, len(table) + 1)
        ),
        default=0,
    )
    assert best == (len(found.blocks) * (len(found.sequences) - 1) if found else 0)
