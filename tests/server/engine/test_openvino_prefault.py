"""Memory that is there before it is written to, seen by the page faults of who writes."""

import sys
import threading
from resource import RUSAGE_THREAD, getrusage
from time import monotonic, sleep

import numpy as np
import pytest
from numpy.typing import NDArray

from bosal_server.engine.openvino_prefault import Prefault

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux gives memory so")
# Many of the largest pages that a system has.
BLOCK_BYTES, BLOCKS = 1 << 20, 96


def pool(count: int) -> list[NDArray[np.uint8]]:
    return [np.zeros((BLOCKS, BLOCK_BYTES), np.uint8) for _ in range(count)]


def wait(prefault: Prefault, blocks: int) -> None:
    limit = monotonic() + 120
    while prefault.num_ready < blocks:
        if prefault._is_closed:
            pytest.skip("this Linux does not know MADV_POPULATE_WRITE")
        assert monotonic() < limit
        sleep(0.01)


def written(memory: NDArray[np.uint8]) -> int:
    """Write to each page of a memory; return how often one had to be given for that."""
    before = getrusage(RUSAGE_THREAD).ru_minflt
    memory[:, ::4096] = 1
    return getrusage(RUSAGE_THREAD).ru_minflt - before


def test_blocks_ahead_of_those_in_use_have_their_memory() -> None:
    memories = pool(2)
    prefault = Prefault(memories, ahead=16)
    wait(prefault, 16)
    assert prefault.num_ready == 16
    for memory in memories:
        # Those at either end may share a page with what lies beside them.
        assert written(memory[1:14]) <= 1
        assert written(memory[32:64]) > 1
    prefault.reach(7)
    assert prefault.num_ready == 16
    prefault.reach(70)
    wait(prefault, 86)
    assert all(written(memory[66:84]) <= 1 for memory in memories)
    prefault.reach(80)
    wait(prefault, BLOCKS)
    prefault.reach(95)
    prefault.close()


def test_what_the_memory_holds_stays() -> None:
    (memory,) = pool(1)
    memory[:] = np.arange(BLOCKS, dtype=np.uint8)[:, None]
    prefault = Prefault([memory], ahead=BLOCKS)
    wait(prefault, BLOCKS)
    assert (memory == np.arange(BLOCKS, dtype=np.uint8)[:, None]).all()
    prefault.close()


def test_it_ends_with_its_pool_and_without_being_told() -> None:
    prefault = Prefault(pool(1), ahead=BLOCKS)
    prefault.close()
    Prefault(pool(1), ahead=4)
    limit = monotonic() + 60
    while any(thread.name == "bosal-prefault" for thread in threading.enumerate()):
        assert monotonic() < limit
        sleep(0.01)


def test_a_pool_of_no_blocks_asks_for_nothing() -> None:
    prefault = Prefault([])
    prefault.reach(3)
    prefault.close()
    assert prefault.num_ready == 0
