"""What the Triton kernels need of a device: their times on one, or their machine code.

Without `--count-only` steps are timed on the CUDA device at hand, against other samplers. With it
kernels are compiled ahead of time for compute capabilities 8.0 and 9.0, which needs no device.
Floors are then those of an H100 at 64 rows of 128,256 tokens: the larger of the bytes that must
move and the instructions that must be issued.
"""

from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.ahead import MachineCode, compile_ahead
from benchmarks.harness import Report, arguments
from benchmarks.kernel_scenarios import SCENARIOS, SHAPES, TYPES
from benchmarks.kernel_sources import VOCABULARY, Configuration, configurations
from bosal_kernels import CombineState, SlotParams, SlotState, TouchedTokens
from bosal_kernels.fused import control_reduce, history_scan, select, stream_masses

ROWS = 64
# Of an H100 SXM: bytes a second from its memory, and instructions a second of all its lanes.
BYTES_PER_SECOND = 3.35e12
INSTRUCTIONS_PER_SECOND = 132 * 128 * 1.755e9


@dataclass(frozen=True, slots=True)
class Count:
    """One configuration's machine code on one architecture."""

    configuration: Configuration
    arch: int
    code: MachineCode

    @property
    def instructions_per_element(self) -> float | None:
        per_thread = self.configuration.elements_per_thread
        return self.code.streaming_instructions / per_thread if per_thread else None

    @property
    def floor_us(self) -> float | None:
        issued, moved = self.instructions_per_element, self.configuration.bytes_per_element
        if issued is None or moved is None:
            return None
        elements = ROWS * VOCABULARY
        seconds = max(moved / BYTES_PER_SECOND, issued / INSTRUCTIONS_PER_SECOND)
        return 1e6 * elements * seconds


class _Operations(TorchDispatchMode):
    """Counts what torch would launch on a device: all but allocations and views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "empty" not in func.name():
            self.count += 1
        return func(*args, **(kwargs or {}))


class _Launches:
    """Stands for a kernel: counts its launches and does nothing."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: object) -> Any:
        def launch(**_: object) -> None:
            self.count += 1

        return launch


def launches_per_step(*, looks_back: bool, is_normed: bool = False) -> int:
    """Return how many launches take raw rows to committed tokens, everything on.

    Streams' log-probabilities need one more than their logits, and so do rules that look back.
    """
    state = SlotState(num_slots=4, vocab_size=1000, packs_touched=True)
    for slot in range(4):
        params = SlotParams(key=slot, logprobs=8, ngram=3 if looks_back else 0)
        state.admit(slot, params, TouchedTokens.of([3], 1.0), instruction=[1, 2])
    slots = torch.arange(4)
    depths = torch.full((4,), 3, dtype=torch.int32)
    coupling, rows = CombineState(4), torch.zeros(12, 1000)
    bits, which = torch.zeros((4, 32), dtype=torch.int32), torch.arange(4, dtype=torch.int32)
    standing: Any = _Launches()
    kernels = (
        (history_scan, "history_scan_kernel"),
        (stream_masses, "stream_masses_kernel"),
        (control_reduce, "control_reduce_kernel"),
        (select, "select_kernel"),
    )
    with ExitStack() as stack:
        for module, name in kernels:
            stack.enter_context(mock.patch.object(module, name, standing))
        operations = stack.enter_context(_Operations())
        runs = repeats = None
        if looks_back:
            runs, repeats = history_scan.history_scan(state, slots)
        masses = None
        if is_normed:
            masses = stream_masses.stream_masses(
                rows, coupling, slots, slots, depths, max_depth=3, num_tokens=1000
            )
        reduced = control_reduce.control_reduce(
            rows,
            state,
            coupling,
            slots,
            slots,
            depths,
            max_depth=3,
            masses=masses,
            legal_rows=which,
            legal_bits=bits,
            runs=runs,
            repeats=repeats,
            keeps_raw=True,
            has_moments=True,
        )
        select.select(
            reduced, state, coupling, top_n=8, is_plausible=True, commits=True, forced=slots
        )
    return int(standing.count + operations.count)


def table(counts: list[Count]) -> Table:
    found = Table(title="kernels: machine code", title_justify="left")
    for column in (
        "kernel", "rows", "sm", "registers", "spills", "instructions", "per element",
        "bytes per element", "128-bit loads", "floor us", "compiled in s",
    ):  # fmt: skip
        found.add_column(column, justify="left" if column in ("kernel", "rows") else "right")
    for one in counts:
        what, code = one.configuration, one.code
        found.add_row(
            what.name,
            what.dtype,
            str(one.arch),
            str(code.registers),
            str(code.spills),
            str(code.instructions),
            _number(one.instructions_per_element),
            _number(what.bytes_per_element, 2),
            str(code.wide_loads),
            _number(one.floor_us),
            _number(code.compile_seconds),
        )
    return found


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _compile(place: int, is_quick: bool) -> MachineCode:
    """Compile the configuration at a place: kernels do not travel between processes."""
    what, arch = configurations(is_quick=is_quick)[place]
    return compile_ahead(what.source, arch)


def count(report: Report, *, is_quick: bool, num_processes: int) -> None:
    """Compile every configuration, and record what was counted."""
    compiled = configurations(is_quick=is_quick)
    places = range(len(compiled))
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        codes = list(pool.map(_compile, places, [is_quick] * len(compiled)))
    counts = [Count(what, arch, code) for (what, arch), code in zip(compiled, codes, strict=True)]
    for one in counts:
        name = f"{one.configuration.name}_{one.configuration.dtype}_sm{one.arch}"
        code = one.code
        report.detail(f"{name}_registers", [code.registers])
        report.detail(f"{name}_spills", [code.spills])
        report.detail(f"{name}_instructions", [code.instructions])
        report.detail(f"{name}_compile_seconds", [code.compile_seconds])
        if one.configuration.elements_per_thread:
            report.detail(f"{name}_wide_loads", [code.wide_loads])
        for what, value in (
            ("instructions_per_element", one.instructions_per_element),
            ("bytes_per_element", one.configuration.bytes_per_element),
            ("floor_us", one.floor_us),
        ):
            if value is not None:
                report.detail(f"{name}_{what}", [value])
    report.figure("spills", sum(one.code.spills for one in counts))
    report.figure("launches_per_step", launches_per_step(looks_back=True))
    report.detail("launches_without_history", [launches_per_step(looks_back=False)])
    with_streams = launches_per_step(looks_back=False, is_normed=True)
    report.detail("launches_of_log_probabilities_without_history", [with_streams])
    Console(width=150).print(table(counts))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--count-only", action="store_true", help="compile and count; no device")
    shapes = [f"{rows}x{size}" for rows, size in SHAPES]
    for option, known, chosen in (
        ("--shapes", shapes, shapes),
        ("--types", list(TYPES), list(TYPES)),
        ("--scenarios", list(SCENARIOS), list(SCENARIOS)),
        ("--peers", None, None),
    ):
        what = "timed in this order" if known else "others than these are left out; none: all are"
        parser.add_argument(option, nargs="*", choices=known, default=chosen, help=what)
    parser.add_argument(
        "--compile",
        choices=["first", "only", "no"],
        default="first",
        help="what will be timed, in several processes; no: it was, and is on disk",
    )
    options = parser.parse_args()
    report = Report("kernels", options)
    if options.count_only:
        count(report, is_quick=options.quick, num_processes=options.threads)
    elif torch.cuda.is_available():
        # The peers are slow to import.
        from benchmarks.kernel_timing import compile_all, time_all

        timed = [SHAPES[shapes.index(shape)] for shape in options.shapes]
        if options.compile != "no":
            compile_all(timed, options.types, options.scenarios, options.threads)
        if options.compile == "only":
            return
        time_all(
            report,
            rounds=options.rounds,
            shapes=timed,
            types=options.types,
            scenarios=options.scenarios,
            wanted=options.peers,
        )
    else:
        parser.error("there is no CUDA device to time kernels on; --count-only needs none")
    report.finish()


if __name__ == "__main__":
    main()
