"""What a process that does nothing but compute takes from the server beside it."""

import asyncio
import statistics
import sys
from typing import Final

from benchmarks.harness import Report
from benchmarks.light_client import LightClient
from benchmarks.soak_parts import overload
from benchmarks.subject import subject

_SPIN: Final = "while True: pass"


def neighbour(report: Report, model: str, runner: str, seconds: float) -> None:
    """Serve at best, alone and beside a spinner, in turn; that often so many seconds."""
    alone: list[float] = []
    beside: list[float] = []
    with subject(*overload.OPTIONS, model=model, runner=runner) as server:

        async def alternate(client: LightClient) -> None:
            await overload.calm(client, server, seconds)
            for _ in range(report.options.rounds):
                alone.append((await overload.calm(client, server, seconds))[0])
                spinner = await asyncio.create_subprocess_exec(sys.executable, "-c", _SPIN)
                try:
                    beside.append((await overload.calm(client, server, seconds))[0])
                finally:
                    spinner.kill()
                    await spinner.wait()

        overload.run_client(server, model, alternate)
        server.check()
    pairs = zip(beside, alone, strict=True)
    report.figure("peak_beside_a_spinner", statistics.median(b / a for b, a in pairs))
