"""What turning a call away takes: of gRPC's server alone, of this project's, and of the client."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import psutil

from benchmarks.harness import Report, interleave
from benchmarks.light_client import LightClient, Refused
from benchmarks.refusing_server import KINDS
from bosal_server.event_loop import loop_factory

# How many call at once, and how long each waits before the next call.
_WAYS: Final = {"together": (16, 0.0), "alone": (1, 0.003)}


@contextmanager
def _running(kind: str) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "benchmarks.refusing_server", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.terminate()


async def _call_often(address: str, number: int, callers: int, pause: float) -> None:
    async with LightClient(address, timeout=20, recipe="plain", max_tokens=32) as client:

        async def caller() -> None:
            for index in range(number // callers):
                assert isinstance(await client.ask(f"number {index}"), Refused)
                await asyncio.sleep(pause)

        await asyncio.gather(*(caller() for _ in range(callers)))


def refusal_cost(report: Report) -> None:
    """Time the processors, not the clock: whose turn it is decides nothing then.

    Calls come together, as fast as they are answered, or each alone.
    """
    number = 160 if report.options.quick else 1600
    client: dict[str, list[float]] = {way: [] for way in _WAYS}

    def refused(kind: str, way: str) -> float:
        with (
            _running(kind) as (address, server),
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            runner.run(_call_often(address, 160, *_WAYS["together"]))
            before, own = server.cpu_times(), time.process_time()
            runner.run(_call_often(address, number, *_WAYS[way]))
            after = server.cpu_times()
            client[way].append((time.process_time() - own) / number * 1000)
        spent = after.user + after.system - before.user - before.system
        return float(spent / number * 1000)

    contestants = {
        f"refusal_{kind}_{way}_ms": partial(refused, kind, way) for kind in KINDS for way in _WAYS
    }
    for name, values in interleave(contestants, report.options.rounds).items():
        report.detail(name, values)
        report.figure(name, report.details[name])
    for way, values in client.items():
        report.detail(f"refusal_client_{way}_ms", values)
