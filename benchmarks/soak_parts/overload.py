"""ten times the calls a server can serve; those it admits are served in time."""

import asyncio
import math
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from benchmarks.harness import Report
from benchmarks.light_client import LightClient, Refused
from benchmarks.subject import Subject, add_subject_options, endless, subject
from bosal_server.event_loop import loop_factory

RUNNING: Final = 16
TOKENS: Final = 32
# Of a request that waits; the server refuses what would wait longer.
QUEUE_SECONDS: Final = 1.0
OPTIONS: Final = (
    f"--max-running={RUNNING}", "--max-waiting=64", f"--max-queue-seconds={QUEUE_SECONDS}",
)  # fmt: skip
# Of a storm: what a calm takes, and what either may take to fill the server before it counts.
_CALM_SHARE: Final = 0.6
_LEAD_SHARE: Final = 0.2


@dataclass(slots=True)
class Tally:
    """What came of the calls of one phase."""

    # When each answer's tokens came, from its first to its last.
    served: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0
    first_token_seconds: list[float] = field(default_factory=list)

    def rate(self, begin: float, end: float) -> float:
        """Return the answers served a second; of each, the part that came between the times."""
        parts = (
            max(0.0, min(last, end) - max(first, begin)) / (last - first)
            for first, last in self.served
        )
        return sum(parts) / (end - begin)


@dataclass(slots=True)
class Overload:
    """What a server did under ten times its calls, in rounds of a calm and a storm."""

    # Requests served a second as fast as they are asked for, and under too many calls.
    peaks: list[float] = field(default_factory=list)
    goodputs: list[float] = field(default_factory=list)
    # Choices in a step.
    peak_rows: list[float] = field(default_factory=list)
    goodput_rows: list[float] = field(default_factory=list)
    num_served: int = 0
    num_refused: int = 0
    first_token_seconds: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Served of what could be: each storm beside the calm before it."""
        pairs = zip(self.goodputs, self.peaks, strict=True)
        return statistics.median(storm / calm for storm, calm in pairs)

    def tell(self, report: Report) -> None:
        report.figure("overload_goodput", self.goodput)
        report.figure("overload_peak_rps", statistics.median(self.peaks))
        report.figure("overload_served", self.num_served)
        report.figure("overload_refused", self.num_refused)
        first = quantile(self.first_token_seconds, 0.99)
        report.figure("overload_first_token_p99_s", first)
        report.figure("overload_queue_limit_s", QUEUE_SECONDS)
        report.detail("overload_rps", self.goodputs)
        report.detail("overload_batch_rows", self.goodput_rows)
        report.detail("peak_batch_rows", self.peak_rows)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    add_subject_options(parser)


def run(options: Namespace, report: Report) -> None:
    seconds = 4.0 if options.quick else options.seconds
    with subject(*OPTIONS, model=options.model, runner=options.runner) as server:
        outcome = measure(server, options.model, seconds, options.rounds)
        leaked = server.leaked()
        server.check()
    outcome.tell(report)
    report.figure("leaked_after_overload", leaked)
    assert not leaked, f"{leaked:g} choices, blocks and tasks are still held"


def measure(server: Subject, model: str, seconds: float, rounds: int) -> Overload:
    """Alternate calms and storms; the storms take so many seconds together."""
    outcome = Overload()
    storm = seconds / rounds

    async def alternate(client: LightClient) -> None:
        await calm(client, server, storm * _CALM_SHARE)
        for _ in range(rounds):
            peak, rows, _ = await calm(client, server, storm * _CALM_SHARE)
            outcome.peaks.append(peak)
            outcome.peak_rows.append(rows)
            calls = 10 * peak

            async def call_often(seconds: float, tally: Tally, rate: float = calls) -> None:
                await _open(client, rate, seconds, tally)

            goodput, rows, tally = await _phase(server, storm, call_often)
            outcome.goodputs.append(goodput)
            outcome.goodput_rows.append(rows)
            outcome.num_served += len(tally.served)
            outcome.num_refused += tally.refused
            outcome.first_token_seconds += tally.first_token_seconds

    run_client(server, model, alternate)
    return outcome


def run_client(server: Subject, model: str, work: Callable[[LightClient], Awaitable[None]]) -> None:
    """Work with a client whose every answer has as many tokens as any other."""

    async def connected() -> None:
        async with LightClient(
            server.address, timeout=20, recipe="plain", max_tokens=TOKENS, overrides=endless(model)
        ) as client:
            await work(client)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(connected())


async def calm(client: LightClient, server: Subject, seconds: float) -> tuple[float, float, Tally]:
    """Ask for as much as can be served; return answers a second, rows a step, and the tally."""

    async def ask_on(seconds: float, tally: Tally) -> None:
        await _closed(client, seconds, tally)

    return await _phase(server, seconds, ask_on)


async def _phase(
    server: Subject, seconds: float, work: Callable[[float, Tally], Awaitable[None]]
) -> tuple[float, float, Tally]:
    """Work for some time behind a lead; return answers a second, rows a step, and the tally."""
    tally = Tally()
    lead = seconds * _LEAD_SHARE
    working = asyncio.ensure_future(work(lead + seconds, tally))
    await asyncio.sleep(lead)
    begin, before = perf_counter(), await asyncio.to_thread(_rows, server)
    await asyncio.sleep(seconds)
    end, after = perf_counter(), await asyncio.to_thread(_rows, server)
    await working
    rows, steps = after[0] - before[0], after[1] - before[1]
    return tally.rate(begin, end), rows / max(steps, 1), tally


def _rows(server: Subject) -> tuple[float, float]:
    return server.total("bosal_batch_rows_sum"), server.total("bosal_batch_rows_count")


async def _closed(client: LightClient, seconds: float, tally: Tally) -> None:
    """Ask again as soon as one is served, with as many callers as there is room for."""
    until = perf_counter() + seconds

    async def caller(number: int) -> None:
        pause = 0.0
        while perf_counter() + pause < until:
            await asyncio.sleep(pause)
            pause = await _call(client, number, tally)

    await asyncio.gather(*map(caller, range(2 * RUNNING)))


async def _open(client: LightClient, rate: float, seconds: float, tally: Tally) -> None:
    """Call at a rate, whatever becomes of the calls."""
    calls: set[asyncio.Task[float]] = set()
    begin = perf_counter()
    number = 0
    while (now := perf_counter() - begin) < seconds:
        while number < rate * now:
            number += 1
            call = asyncio.create_task(_call(client, number, tally))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.sleep(0.002)
    await asyncio.gather(*calls)


async def _call(client: LightClient, number: int, tally: Tally) -> float:
    """Ask; return how many seconds the server wants to be left alone."""
    outcome = await client.ask(f"number {number}")
    if isinstance(outcome, Refused):
        tally.refused += 1
        return outcome.retry_after
    now = perf_counter()
    tally.served.append((now - outcome.decode, now))
    tally.first_token_seconds.append(outcome.time_to_first_token)
    return 0.0


def quantile(values: list[float], share: float) -> float:
    """Return the nearest-rank quantile; NaN of nothing."""
    if not values:
        return math.nan
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]
