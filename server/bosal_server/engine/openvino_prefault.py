"""Has the system give a pool its memory before a step writes there for the first time.

Memory costs at its first touch, and a prompt would wait for that: on a virtual machine whose host
gives it by the page as long as for the computing. Blocks are handed out from the lowest up, so a
thread that runs when nothing else does stays ahead of them. It takes no more than will be needed
soon: a server that is little used stays small.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread, get_native_id
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Blocks beyond the highest in use that are made ready.
AHEAD = 256
# Bytes asked for at a time: so soon it hears that it is to end.
_PIECE = 4 << 20
# <linux/mman.h>: give pages as if each was written to, and leave what they hold.
_MADV_POPULATE_WRITE = 23


class Prefault:
    """Stays ahead of the blocks in use; does nothing where the system cannot be asked."""

    def __init__(self, memories: Sequence[NDArray[np.uint8]], ahead: int = AHEAD) -> None:
        """`memories` [blocks, ...] are those of one pool, each in one piece."""
        self._memories = list(memories)
        self._ahead = ahead
        self._num_blocks = min(len(memory) for memory in memories) if memories else 0
        # The lowest blocks, which have their memory, or will once the thread has ended.
        self._num_wanted = self._num_ready = 0
        self._is_closed = sys.platform != "linux"
        self._thread: Thread | None = None
        self.reach(0)

    @property
    def num_ready(self) -> int:
        """How many of the lowest blocks have their memory."""
        return self._num_ready

    @property
    def is_complete(self) -> bool:
        """Whether all blocks have their memory or soon will: no more is to be reached."""
        return self._num_wanted == self._num_blocks

    def reach(self, block: int) -> None:
        """Say up to which block a step goes; from the engine's thread."""
        if self.is_complete or block + self._ahead // 2 < self._num_wanted:
            return
        if self._is_closed or (self._thread is not None and self._thread.is_alive()):
            return
        self._num_wanted = min(block + self._ahead, self._num_blocks)
        self._thread = Thread(target=self._work, name="bosal-prefault", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the memory may go once this returns."""
        self._is_closed = True
        if self._thread is not None:
            self._thread.join()
        self._memories = []

    def _work(self) -> None:
        # Whatever computes goes first; a sandbox may forbid to ask for that.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), 19)
        # Lets the interpreter go on meanwhile, which the method of `mmap` does not.
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for memory in self._memories:
            for place, size in _pieces(memory, self._num_ready, self._num_wanted):
                # Linux before 5.14 does not know it.
                if self._is_closed or advise(place, size, _MADV_POPULATE_WRITE) != 0:
                    self._is_closed = True
                    return
        self._num_ready = self._num_wanted


def _pieces(memory: NDArray[Any], begin: int, end: int) -> list[tuple[int, int]]:
    """Return address and size of pieces of some blocks, in whole pages that are theirs alone."""
    page = os.sysconf("SC_PAGE_SIZE")
    start, size = memory.ctypes.data, memory.nbytes // len(memory)
    first = -(-(start + begin * size) // page) * page
    last = (start + end * size) // page * page
    return [(place, min(_PIECE, last - place)) for place in range(first, last, _PIECE)]
