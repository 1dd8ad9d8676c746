"""kill -9 of the gRPC server under load, again and again; then what it promised is checked."""

import asyncio
import multiprocessing
import os
import random
import runpy
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import models
from benchmarks.announcement import Announcement
from benchmarks.harness import Report
from benchmarks.soak_parts.kills import NAME, begin, check
from bosal_client import AsyncClient, BosalError
from bosal_client.experiments import Outcome

_MODEL = "15m"
_CALLERS = 8
_UNITS = 100
_NEW_TOKENS = 2
# Every server is a process of its own, forked from one that has imported what servers import: that
# is most of a start.
_PROCESSES = multiprocessing.get_context("forkserver")
_IMPORTED = (
    "bosal_server.main",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen3.modeling_qwen3",
)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", type=Path, help="a model's folder; default: random weights")


def run(options: Namespace, report: Report) -> None:
    """Ask and record through gRPC, kill whoever serves; then open, count and go on."""
    kills = 2 if options.quick else options.kills
    chance = random.Random(options.seed)
    acknowledged: set[str] = set()
    slowest = 0.0
    _PROCESSES.set_forkserver_preload([*_IMPORTED])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        model = options.model
        if model is None:
            model = folder / "model"
            models.save(_MODEL, str(model))
        file = folder / "bosal.db"
        begin(file)
        for round_ in range(kills):
            before = len(acknowledged)
            asyncio.run(_round(file, model, round_, chance, acknowledged))
            assert len(acknowledged) > before, "nothing was acknowledged before the kill"
            slowest = max(slowest, check(file, acknowledged))
    report.figure("server_kills", kills)
    report.figure("server_kills_acknowledged", len(acknowledged))
    # Checked after every kill: a lost or twice counted one ends the run.
    report.figure("server_kills_lost", 0)
    report.figure("server_kills_slowest_open_s", slowest)


async def _round(
    file: Path, model: Path, round_: int, chance: random.Random, acknowledged: set[str]
) -> None:
    """Serve until killed; note every key the server has acknowledged."""
    child, told = _server(file, model)
    try:
        address = await asyncio.to_thread(_address, told)
        has_begun = asyncio.Event()
        async with AsyncClient(address) as client:
            callers = [
                asyncio.create_task(_call(client, f"{round_}-{caller}", acknowledged, has_begun))
                for caller in range(_CALLERS)
            ]
            await asyncio.wait_for(has_begun.wait(), 120)
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            child.kill()
            # Calls that the kill cut off are told so; none may hang.
            await asyncio.wait_for(asyncio.gather(*callers), 120)
    finally:
        child.kill()
        child.join()
        told.close()


def _server(file: Path, model: Path) -> tuple[ForkServerProcess, Connection]:
    """Start a server; return it and what it prints."""
    arguments = (
        "serve", f"--model={_MODEL}={model}", "--port=0", "--metrics-port=-1", "--runner=torch",
        "--threads=1", f"--database={file}",
    )  # fmt: skip
    told, telling = _PROCESSES.Pipe(duplex=False)
    child = _PROCESSES.Process(target=_serve, args=(arguments, telling))
    child.start()
    telling.close()
    return child, told


def _serve(arguments: Sequence[str], telling: Connection) -> None:
    """Do in a new process what the command line does."""
    os.dup2(telling.fileno(), sys.stdout.fileno())
    sys.argv = ["bosal_server", *arguments]
    runpy.run_module("bosal_server", run_name="__main__")


def _address(told: Connection) -> str:
    with os.fdopen(os.dup(told.fileno())) as lines:
        return Announcement.read(lines).address


async def _call(
    client: AsyncClient, name: str, acknowledged: set[str], has_begun: asyncio.Event
) -> None:
    chance = random.Random(name)
    try:
        for number in range(10**9):
            key = f"{name}-{number}"
            answer = await client.generate(
                "Name a river.",
                experiment=NAME,
                unit=f"u{chance.randrange(_UNITS)}",
                max_tokens=_NEW_TOKENS,
                request_id=key,
            )
            assert answer.started.assignment is not None
            outcome = Outcome(
                name="score",
                value=1.0,
                exposure_id=answer.started.assignment.exposure_id,
                idempotency_key=key,
            )
            # Told twice, as by a client that is not sure.
            results = await client.experiments.record(NAME, [outcome, outcome])
            assert [one.status for one in results] == ["recorded", "duplicate"]
            acknowledged.add(key)
            has_begun.set()
    except BosalError:
        return
