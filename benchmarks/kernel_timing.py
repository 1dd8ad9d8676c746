"""The kernels' times on a device: graphs replayed over inputs in turn, medians of rounds."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from statistics import median

import torch
from torch import Tensor

from benchmarks.harness import Report, interleave, ratio, say
from benchmarks.kernel_peers import Peer, peers, versions
from benchmarks.kernel_scenarios import SCENARIOS, TYPES, Case

# Every graph is replayed so often in a round.
REPLAYS = 20
# The scenario of the headline figures.
HEADLINE = "everything"


def graph_timer(step: Callable[[Tensor], object], inputs: Sequence[Tensor]) -> Callable[[], float]:
    """Capture a step over each of the inputs; return what takes its microseconds."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            for rows in inputs:
                step(rows)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for rows in inputs:
            step(rows)
    return lambda: _microseconds(graph.replay, REPLAYS) / len(inputs)


def eager_timer(step: Callable[[Tensor], object], inputs: Sequence[Tensor]) -> Callable[[], float]:
    """Return what takes the microseconds of a step that waits for the device."""

    def run() -> None:
        for rows in inputs:
            step(rows)

    run()
    return lambda: _microseconds(run, 1) / len(inputs)


def _microseconds(run: Callable[[], object], times: int) -> float:
    start, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    start.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return 1000 * float(start.elapsed_time(end)) / times


def bytes_per_second(rounds: int) -> float:
    """Return the memory's bytes a second, read and written, of a large copy."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    samples = [_microseconds(lambda: target.copy_(source), 10) for _ in range(rounds + 1)]
    return 2 * source.nbytes / (median(samples[1:]) * 1e-6)


@dataclass(slots=True)
class Timers:
    """What takes the microseconds of each contestant's step, and why others take no part."""

    runs: dict[str, Callable[[], float]]
    failed: dict[str, str] = field(default_factory=dict)


def timers(case: Case, wanted: Sequence[str] | None = None) -> Timers:
    """Return what times every contestant of a case, or those peers that are wanted, ours first."""
    found = Timers(
        {
            "ours": graph_timer(case.step, case.inputs),
            "reduction": graph_timer(case.reduce, case.inputs),
        }
    )
    for name, make in peers(case).items():
        if wanted is None or name in wanted:
            try:
                run = _timer(make(), case.inputs)
                run()
                found.runs[name] = run
            except Exception as error:  # what a peer cannot do is no fault of the others
                found.failed[name] = f"{type(error).__name__}: {error}"
    return found


def _timer(peer: Peer, inputs: Sequence[Tensor]) -> Callable[[], float]:
    # Peers may write into what they get.
    own = [rows.clone() for rows in inputs]
    return (graph_timer if peer.is_capturable else eager_timer)(peer.step, own)


def time_case(
    report: Report,
    name: str,
    case: Case,
    rounds: int,
    bandwidth: float,
    wanted: Sequence[str] | None = None,
) -> None:
    """Time a scenario's contestants in turn; figures are `<name>_<rows>x<vocabulary>_<type>_…`."""
    contestants = timers(case, wanted)
    samples = interleave(contestants.runs, rounds)
    type_ = next(key for key, dtype in TYPES.items() if dtype == case.inputs[0].dtype)
    at = f"{case.num_rows}x{case.vocab_size}_{type_}"
    for peer, why in contestants.failed.items():
        report.note(f"failed_{name}_{at}_{peer}", why)
        say(f"{name} {at}: {peer} failed: {why}")
    for contestant, times in samples.items():
        report.detail(f"{name}_{at}_{contestant}_us", times)
    floor = 1e6 * case.bytes_at_least / bandwidth
    over = [time / floor for time in samples["ours"]]
    report.detail(f"{name}_{at}_over_floor", over)
    shown = ", ".join(f"{key} {median(times):,.1f}" for key, times in samples.items())
    say(f"{name} {at}: {shown} us; {median(over):.2f} floors")
    if name == HEADLINE:
        report.figure(f"control_over_floor_{at}", median(over))
        if "processors" in samples:
            report.figure(f"vs_processors_{at}", ratio(samples, "processors", "ours"))


def _compile(scenario: str, vocab_size: int, type_: str) -> str:
    """Run a step of one row: its kernels are compiled for any number of rows, and kept on disk."""
    case = Case(SCENARIOS[scenario], 1, vocab_size, TYPES[type_], "cuda", num_inputs=1)
    case.step(case.inputs[0])
    torch.cuda.synchronize()
    return f"{scenario} {vocab_size} {type_}"


def compile_all(
    shapes: Sequence[tuple[int, int]], types: Sequence[str], scenarios: Sequence[str], workers: int
) -> None:
    """Compile what will be timed, in several processes: most of what a fresh machine waits for."""
    sizes = dict.fromkeys(vocab_size for _, vocab_size in shapes)
    wanted = product(scenarios, sizes, types)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = [pool.submit(_compile, *one) for one in wanted]
        for one in waiting:
            error = one.exception()
            say(f"compiled {one.result()}" if error is None else f"not compiled: {error}")


def time_all(
    report: Report,
    *,
    rounds: int,
    shapes: Sequence[tuple[int, int]],
    types: Sequence[str],
    scenarios: Sequence[str],
    wanted: Sequence[str] | None,
) -> None:
    """Time scenarios at shapes and types, in that order, and record the figures of each at once."""
    device = torch.cuda.get_device_properties(0)
    report.note("device", f"{device.name}, {device.multi_processor_count} SMs")
    report.note("cuda", str(torch.version.cuda))
    for name, text in versions().items():
        report.note(name, text)
    bandwidth = bytes_per_second(rounds)
    report.detail("copy_gigabytes_per_second", [bandwidth / 1e9])
    for shape, type_, name in product(shapes, types, scenarios):
        at = f"{name}_{shape[0]}x{shape[1]}_{type_}"
        try:
            case = Case(SCENARIOS[name], *shape, TYPES[type_], "cuda")
            time_case(report, name, case, rounds, bandwidth, wanted)
        except Exception as error:  # what was measured stays, and so does what is still to come
            report.note(f"failed_{at}", f"{type(error).__name__}: {error}")
            say(f"{at} failed: {error}")
        report.write()
        # What was compiled for a shape is of no use to the next.
        torch.compiler.reset()
