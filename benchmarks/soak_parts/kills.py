"""kill -9 of a process at work, again and again; then what it promised is checked."""

import asyncio
import os
import random
import signal
import sqlite3
import time
from argparse import ArgumentParser, Namespace
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Report
from bosal_decoding.recipe import load_shipped
from bosal_server.database import Database
from bosal_server.experiments.catalogue import Change
from bosal_server.experiments.experiment import Experiment, Variant
from bosal_server.experiments.intake import OutcomeCommand
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.metric import Direction, Metric, MetricKind, MetricRole
from bosal_server.experiments.privacy import Pseudonyms
from bosal_server.recipe_store import RecipeStore

NAME = "soak"
_CALLERS = 8
_UNITS = 400


def experiment(other: str = "steered", **fields: object) -> Experiment:
    """Return a draft of `plain` against another recipe, its primary metric sent by clients."""
    recipes = load_shipped()
    variants = tuple(
        Variant(
            key=key,
            recipe_name=recipe,
            recipe_version=recipes[recipe].version,
            document=recipes[recipe].document(),
            weight_ppm=500_000,
            is_control=key == "control",
        )
        for key, recipe in (("control", "plain"), ("other", other))
    )
    score = Metric(
        name="score",
        kind=MetricKind.MEAN,
        outcome="score",
        direction=Direction.INCREASE,
        role=MetricRole.PRIMARY,
    )
    return Experiment(name=NAME, variants=variants, metrics=(score,)).model_copy(update=fields)


def manager(database: Database) -> ExperimentManager:
    return ExperimentManager(database, RecipeStore.load(), Pseudonyms(bytes(32)))


async def _work(file: Path, acknowledged: int, round_: int) -> None:
    """Serve and record until killed; write down every key the store has acknowledged."""
    with closing(Database.open(str(file))) as database:
        experiments = manager(database)
        await experiments.start()

        async def call(caller: int) -> None:
            chance = random.Random(f"{round_} {caller}")
            for number in range(10**9):
                unit = f"u{chance.randrange(_UNITS)}"
                key = f"{round_}-{caller}-{number}"
                exposed = experiments.expose(
                    experiments.assign(NAME, unit), request_id=key, model_digest="", seed=0,
                    instruction="", instruction_tokens=1,
                )  # fmt: skip
                assert exposed is not None
                outcome = OutcomeCommand(
                    exposure_id=exposed.exposure_id.hex(), unit=None, name="score", value=1.0,
                    key=key, at=None,
                )  # fmt: skip
                # Told twice, as by a client that is not sure.
                await experiments.record(NAME, [outcome, outcome])
                os.write(acknowledged, f"{key}\n".encode())

        await asyncio.gather(*map(call, range(_CALLERS)))


def check(file: Path, keys: set[str]) -> float:
    """Open the store as a server would; return the seconds it took. Nothing may be missing."""
    begin = time.perf_counter()
    with closing(Database.open(str(file))) as database:

        async def look() -> tuple[int, float]:
            experiments = manager(database)
            await experiments.start()
            found = await experiments.report(NAME, 0)
            await experiments.close()
            arms = found.metrics[0].arms
            assert all(arm.value in (None, 1.0) for arm in arms), "an outcome was counted twice"
            return found.orphans, time.perf_counter() - begin

        orphans, seconds = asyncio.run(look())
    assert not orphans, f"{orphans} outcomes lost their exposure"
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (rows,) = connection.execute("SELECT count(*) FROM experiment_outcomes").fetchone()
        tallied = connection.execute(
            "SELECT sum(json_extract(tallies, '$.score[0]')) FROM experiment_units"
        ).fetchone()[0]
    assert rows >= len(keys), f"{len(keys) - rows} acknowledged outcomes are lost"
    # Each row is counted in its unit once.
    assert rows == (tallied or 0), f"{rows} outcomes, counted {tallied} times"
    return seconds


def begin(file: Path, other: str = "steered") -> None:
    """Make a store with an experiment that runs, `plain` against another recipe."""

    async def made() -> None:
        with closing(Database.open(str(file))) as database:
            experiments = manager(database)
            await experiments.start()
            await experiments.create(experiment(other), "", "")
            await experiments.begin(NAME, Change(action="START"))
            await experiments.close()

    asyncio.run(made())


def _wait_for_growth(ledger: Path) -> None:
    """Wait until the worker is at work."""
    before = ledger.stat().st_size
    for _ in range(6000):
        if ledger.stat().st_size > before:
            return
        time.sleep(0.005)
    raise AssertionError("the worker never began")


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=200)


def run(options: Namespace, report: Report) -> None:
    """Kill whoever writes exposures and outcomes; then open, count and go on."""
    kills = 3 if options.quick else options.kills
    chance = random.Random(options.seed)
    slowest = 0.0
    with TemporaryDirectory() as folder:
        file, ledger = Path(folder) / "bosal.db", Path(folder) / "acknowledged"

        begin(file)
        for round_ in range(kills):
            acknowledged = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            child = os.fork()
            if child == 0:
                asyncio.run(_work(file, acknowledged, round_))
                os._exit(1)
            _wait_for_growth(ledger)
            time.sleep(chance.uniform(0.0, 0.3))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGKILL, "the worker ended by itself"
            os.close(acknowledged)
            keys = set(ledger.read_text().split())
            slowest = max(slowest, check(file, keys))
        assert keys, "nothing was acknowledged"
    report.figure("kills", kills)
    report.figure("kills_acknowledged", len(keys))
    # Checked after every kill: a lost or twice counted one ends the run.
    report.figure("kills_lost", 0)
    report.figure("kills_slowest_open_s", slowest)
