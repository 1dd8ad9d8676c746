"""ten times the calls a server can serve; those it admits are served in time."""

import asyncio
import math
import statistics
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.harness import Report
from benchmarks.light_client import LightClient, Refused, fast_loop
from benchmarks.subject import Subject, subject

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


@dataclass(slots=True)
class Overload:
    """What a server did under ten times its calls, in rounds of a calm and a storm."""

    # Requests served a second as fast as they are asked for, and under too many calls.
    peaks: list[float] = field(default_factory=list)
    goodputs: list[float] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def goodput(self) -> float:
        """Served of what could be: each storm beside the calm before it."""
        pairs = zip(self.goodputs, self.peaks, strict=True)
        return statistics.median(storm / calm for storm, calm in pairs)

    def tell(self, report: Report) -> None:
        report.figure("overload_goodput", self.goodput)
        report.figure("overload_peak_rps", statistics.median(self.peaks))
        report.figure("overload_served", self.tally.served)
        report.figure("overload_refused", self.tally.refused)
        first = quantile(self.tally.first_token_seconds, 0.99)
        report.figure("overload_first_token_p99_s", first)
        report.figure("overload_queue_limit_s", QUEUE_SECONDS)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")


def run(options: Namespace, report: Report) -> None:
    seconds = 4.0 if options.quick else options.seconds
    with subject(*OPTIONS) as server:
        outcome = measure(server, seconds, options.rounds)
        leaked = server.leaked()
        server.check()
    outcome.tell(report)
    report.figure("leaked_after_overload", leaked)
    assert not leaked, f"{leaked:g} choices, blocks and tasks are still held"


def measure(server: Subject, seconds: float, rounds: int) -> Overload:
    """Alternate calms and storms; the storms take so many seconds together."""
    outcome = Overload()

    async def alternate() -> None:
        async with LightClient(
            server.address, timeout=20, recipe="plain", max_tokens=TOKENS, overrides=ENDLESS
        ) as client:
            await _closed(client, 1.0)
            for _ in range(rounds):
                peak = await _closed(client, seconds / rounds / 2)
                served, begin = outcome.tally.served, perf_counter()
                await _open(client, 10 * peak, seconds / rounds, outcome.tally)
                outcome.peaks.append(peak)
                served = outcome.tally.served - served
                outcome.goodputs.append(served / (perf_counter() - begin))

    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(alternate())
    return outcome


async def _closed(client: LightClient, seconds: float) -> float:
    """Ask again as soon as one is served, with as many callers as there is room for."""
    tally = Tally()
    until = perf_counter() + seconds

    async def caller(number: int) -> None:
        pause = 0.0
        while perf_counter() + pause < until:
            await asyncio.sleep(pause)
            pause = await _call(client, number, tally)

    begin = perf_counter()
    await asyncio.gather(*map(caller, range(2 * RUNNING)))
    return tally.served / (perf_counter() - begin)


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
    tally.served += 1
    tally.first_token_seconds.append(outcome.time_to_first_token)
    return 0.0


def quantile(values: list[float], share: float) -> float:
    """Return the nearest-rank quantile; NaN of nothing."""
    if not values:
        return math.nan
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]
