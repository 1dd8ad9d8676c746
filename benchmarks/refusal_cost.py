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

_CALLERS: Final = 16


@contextmanager
def _running(kind: str) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "benchmarks.refusing_server", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.terminate()


async def _call_often(address: str, number: int) -> None:
    async with LightClient(address, timeout=20, recipe="plain", max_tokens=32) as client:

        async def caller() -> None:
            for index in range(number // _CALLERS):
                assert isinstance(await client.ask(f"number {index}"), Refused)

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))


def refusal_cost(report: Report) -> None:
    """Time the processors, not the clock: whose turn it is decides nothing then."""
    number = 320 if report.options.quick else 4000
    client: list[float] = []

    def refused(kind: str) -> float:
        with (
            _running(kind) as (address, server),
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            runner.run(_call_often(address, _CALLERS * 10))
            before, own = server.cpu_times(), time.process_time()
            runner.get_loop().run_until_complete(_call_often(address, number))
            after = server.cpu_times()
            client.append((time.process_time() - own) / number * 1000)
        spent = after.user + after.system - before.user - before.system
        return float(spent / number * 1000)

    samples = interleave({kind: partial(refused, kind) for kind in KINDS}, report.options.rounds)
    for kind, values in samples.items():
        report.detail(f"refusal_{kind}_ms", values)
        report.figure(f"refusal_{kind}_ms", report.details[f"refusal_{kind}_ms"])
    report.detail("refusal_client_ms", client)
