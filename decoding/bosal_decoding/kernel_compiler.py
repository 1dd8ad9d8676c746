"""Compiles the kernels of a device in processes beside this one, before anything is served.

Triton compiles at a kernel's first launch, in Python, and keeps the outcome on disk. To compile a
whole set one after the other takes minutes. So processes that need no device make the same launches
over tensors on the CPU, one kernel each at a time, with a launch that ends where it would begin;
what they compile is found on disk by the launches that follow here.
"""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from fcntl import LOCK_EX, flock
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic
from typing import Any, Final

import torch

from bosal_decoding.fused_draw import FusedDraw
from bosal_decoding.fused_slots import FusedSlots
from bosal_kernels import CombineState, SlotState
from bosal_kernels.fused.builds import BUILDS, Build

_LOG = logging.getLogger(__name__)

# By what they take to compile, the longest first.
_KERNELS: Final = (
    "select_kernel",
    "control_reduce_kernel",
    "stream_masses_kernel",
    "history_scan_kernel",
)
# A process holds half a gigabyte.
_MAX_PROCESSES: Final = 16
# Characters of what a process that failed had to say.
_SHOWN: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What decides, beside a build, which machine code a launch needs."""

    dtype: str
    width: int
    num_tokens: int
    # Triton's name of a device: backend, architecture, threads of a warp.
    target: tuple[str, int | str, int]


def compile_builds(dtype: torch.dtype, width: int, num_tokens: int) -> None:
    """Have every build on disk for rows [., width] on the current device.

    A process that fails is told of and costs no more than time: its kernels are compiled at their
    first launch.
    """
    from triton import knobs
    from triton.runtime import driver

    if knobs.runtime.interpret:
        return
    target: Any = driver.active.get_current_target()
    rows = Rows(
        dtype=str(dtype).removeprefix("torch."),
        width=width,
        num_tokens=num_tokens,
        target=(target.backend, target.arch, target.warp_size),
    )
    folder = Path(knobs.cache.dir)
    marker = folder / f"bosal-{_digest(rows)}"
    if marker.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with marker.with_suffix(".lock").open("w") as lock:
        # Two servers that start at once would both compile everything.
        flock(lock, LOCK_EX)
        if marker.exists():
            return
        jobs = list(_jobs())
        workers = min(len(jobs), _MAX_PROCESSES, len(os.sched_getaffinity(0)))
        _LOG.info(
            "compiling %d kernels for %s, once a machine, in %d processes; they are kept in %s",
            len(jobs), f"{target.backend} {target.arch}", workers, folder,
        )  # fmt: skip
        begin = monotonic()
        if compile_beside(rows, jobs, workers):
            marker.touch()
        _LOG.info("compiled %d kernels in %.1f s", len(jobs), monotonic() - begin)


def _digest(rows: Rows) -> str:
    """Name what is on disk once a set is compiled: by versions, sources and rows."""
    import triton

    from bosal_kernels import fused

    found = hashlib.sha256(f"{triton.__version__} {torch.__version__} {rows} {BUILDS}".encode())
    for file in sorted(Path(fused.__path__[0]).parent.rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def _jobs() -> Iterator[tuple[int, str]]:
    """Return builds, by their places, with a kernel of each; the dear ones first."""
    seen = set()
    for kernel, place in product(_KERNELS, reversed(range(len(BUILDS)))):
        build = BUILDS[place]
        # What of a build a kernel differs by.
        if kernel == "history_scan_kernel":
            key: object = build.looks_back or None
        elif kernel == "stream_masses_kernel":
            key = build.max_depth if build.is_normed else None
        elif kernel == "select_kernel":
            key = Build(**(asdict(build) | {"looks_back": False}))
        else:
            key = build
        if key is not None and (kernel, key) not in seen:
            seen.add((kernel, key))
            yield place, kernel


def compile_beside(rows: Rows, jobs: Sequence[tuple[int, str]], num_processes: int) -> bool:
    """Compile kernels of builds in so many processes; return whether all of it worked."""
    waiting = iter(jobs)
    with ThreadPoolExecutor(num_processes) as pool:
        ends = list(pool.map(lambda _: _drive(rows, waiting), range(num_processes)))
    return all(ends)


def _drive(rows: Rows, waiting: Iterator[tuple[int, str]]) -> bool:
    """Give a process one job after the other, until none waits."""
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    with TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(asdict(rows))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for job in waiting:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            if not process.stdout.readline():
                break
        with suppress(BrokenPipeError):
            process.communicate()
        if process.wait() == -signal.SIGINT:
            # Ctrl-C reaches all processes of a terminal.
            raise KeyboardInterrupt
        if process.returncode:
            errors.seek(0)
            why = errors.read().strip()[-_SHOWN:]
            _LOG.warning("a process that compiles kernels failed: %s", why)
        return process.returncode == 0


class _AbsentDevice:
    """Says what is compiled for, in place of a device."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self._target


def main() -> None:
    """Compile what standard input names, one job a line; a line comes back for each."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    # Ctrl-C ends it at once: Python would first see it when the compiler returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    found = json.loads(sys.argv[1])
    rows = Rows(**found | {"target": tuple(found["target"])})
    driver.set_active(_AbsentDevice(GPUTarget(*rows.target)))
    wanted = ""
    run: Any = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        if kernel.fn.__name__ == wanted:
            run(kernel, *args, grid=grid, warmup=True, **kwargs)

    triton.JITFunction.run = compile_only
    state = SlotState(num_slots=1, vocab_size=rows.width, packs_touched=True)
    draw = FusedDraw(FusedSlots(), state, CombineState(1))
    logits = torch.zeros((1, rows.width), dtype=getattr(torch, rows.dtype))
    for line in sys.stdin:
        place, wanted = json.loads(line)
        draw.launch_nothing(BUILDS[place], logits, rows.num_tokens)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
