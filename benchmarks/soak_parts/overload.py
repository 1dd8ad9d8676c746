"""ten times the calls a server can serve; those it admits are served in time."""

import asyncio
import math
import statistics
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.harness import Report
from benchmarks.subject import Subject, subject
from bosal_client import AsyncClient, DeadlineExceeded, Overloaded

RUNNING = 16
TOKENS = 32
# Of a request that waits; the server refuses what would wait longer.
QUEUE_SECONDS = 1.0
OPTIONS = (f"--max-running={RUNNING}", "--max-waiting=64", f"--max-queue-seconds={QUEUE_SECONDS}")
ENDLESS = [{"rule": "logit_bias", "ids": {"399": -1000}}]


@dataclass(slots=True)
class Tally:
    """What came of the calls of one phase."""

    served: int = 0
    refused: int = 0
    first_token_seconds: list[float] = field(default_factory=list)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")


def run(options: Namespace, report: Report) -> None:
    seconds = 4.0 if options.quick else options.seconds
    with subject(*OPTIONS) as server:
        peak, goodput, tally = measure(server, seconds / 4, seconds)
        leaked = server.leaked()
        server.check()
    report.figure("overload_peak_rps", peak)
    report.figure("overload_goodput", goodput / peak)
    report.figure("overload_served", tally.served)
    report.figure("overload_refused", tally.refused)
    report.figure("overload_first_token_p99_s", quantile(tally.first_token_seconds, 0.99))
    report.figure("overload_queue_limit_s", QUEUE_SECONDS)
    report.figure("leaked_after_overload", leaked)
    assert not leaked, f"{leaked:g} choices, blocks and tasks are still held"


def measure(server: Subject, calm: float, storm: float) -> tuple[float, float, Tally]:
    """Return requests served a second as fast as they are asked for, those under ten times as many
    calls, and what became of these.
    """

    async def both() -> tuple[float, float, Tally]:
        async with AsyncClient(server.address) as client:
            await _closed(client, 1.0)
            peak = await _closed(client, calm)
            tally = Tally()
            begin = perf_counter()
            await _open(client, 10 * peak, storm, tally)
            return peak, tally.served / (perf_counter() - begin), tally

    return asyncio.run(both())


async def _closed(client: AsyncClient, seconds: float) -> float:
    """Ask again as soon as one is served, with as many callers as there is room for."""
    tally = Tally()
    until = perf_counter() + seconds

    async def caller(number: int) -> None:
        while perf_counter() < until:
            await _call(client, number, tally)

    begin = perf_counter()
    await asyncio.gather(*map(caller, range(2 * RUNNING)))
    return tally.served / (perf_counter() - begin)


async def _open(client: AsyncClient, rate: float, seconds: float, tally: Tally) -> None:
    """Call at a rate, whatever becomes of the calls."""
    calls: set[asyncio.Task[None]] = set()
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


async def _call(client: AsyncClient, number: int, tally: Tally) -> None:
    begin = perf_counter()
    try:
        async with client.stream(
            f"number {number}", recipe="plain", max_tokens=TOKENS, overrides=ENDLESS, timeout=20
        ) as stream:
            first = None
            async for _ in stream:
                first = first or perf_counter() - begin
            generation = await stream.result()
    except (Overloaded, DeadlineExceeded):
        tally.refused += 1
        return
    tally.served += 1
    tally.first_token_seconds.append(generation.timings.time_to_first_token)


def quantile(values: list[float], share: float) -> float:
    """Return the nearest-rank quantile; NaN of nothing."""
    if not values:
        return math.nan
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]
