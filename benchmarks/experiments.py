"""What experiments cost, and how often they mislead."""

import asyncio
import sqlite3
import statistics
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Final

import numpy as np
import torch

from benchmarks.engines import Engine, load
from benchmarks.harness import Report, arguments, interleave, ratio, seconds
from benchmarks.soak_parts.kills import NAME, experiment, manager
from benchmarks.wire import server
from bosal_client import AsyncClient, Client
from bosal_server.database import Database
from bosal_server.experiments.catalogue import Change
from bosal_server.experiments.enrolment import assign
from bosal_server.experiments.experiment import Phase, State
from bosal_server.experiments.intake import OutcomeCommand
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.records import Entry
from bosal_server.statistics import sequential
from bosal_server.statistics.effect import Method
from bosal_server.statistics.plan import units_needed

_ALPHA, _BURN_IN = 0.05, 50
_NEW_TOKENS = 32
# As short a step as there is, and every answer as long as every other.
_RECIPE: Final = {
    "name": "fixed",
    "scaffold": {"kind": "raw"},
    "rules": [
        {"rule": "temperature", "value": 0},
        {"rule": "min_tokens", "value": _NEW_TOKENS},
    ],
}


def assign_us(number: int) -> float:
    """Return microseconds to assign a unit."""
    running = experiment(
        phases=(Phase(number=1, weights_ppm=(500_000, 500_000)),), state=State.RUNNING
    )
    entry = Entry(1, running)
    units = [f"user-{index}" for index in range(number)]

    def every() -> None:
        for unit in units:
            assign(entry, unit)

    return seconds(every) / number * 1e6


async def _begun(experiments: ExperimentManager) -> None:
    await experiments.start()
    await experiments.create(experiment(), "", "")
    await experiments.begin(NAME, Change(action="START"))


@contextmanager
def _at_work() -> Iterator[None]:
    """Keep an engine of this process decoding, eight choices at a time, on one thread."""
    torch.set_num_threads(1)
    prompts = [[number + 1] * 32 for number in range(8)]
    is_over = threading.Event()

    with Engine(load("15m"), runner="torch") as engine:
        engine.run(prompts, 2)

        def serve() -> None:
            while not is_over.is_set():
                engine.run(prompts, _NEW_TOKENS)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def sustained(folder: Path, number: int) -> float:
    """Return outcomes a second on disk, each with an exposure of its own, from 32 callers."""
    folder = Path(tempfile.mkdtemp(dir=folder))

    async def run() -> float:
        with closing(Database.open(str(folder / "rate.db"))) as database:
            experiments = manager(database)
            await _begun(experiments)
            numbers = iter(range(number // 100))

            async def call() -> None:
                for part in numbers:
                    outcomes = []
                    for index in range(100):
                        key = f"{part}-{index}"
                        exposed = experiments.expose(
                            experiments.assign(NAME, key), request_id=key, model_digest="",
                            seed=0, instruction="", instruction_tokens=1,
                        )  # fmt: skip
                        assert exposed is not None
                        outcomes.append(
                            OutcomeCommand(
                                exposure_id=exposed.exposure_id.hex(), unit=None, name="score",
                                value=1.0, key=key, at=None,
                            )
                        )  # fmt: skip
                    await experiments.record(NAME, outcomes)

            begin = perf_counter()
            await asyncio.gather(*(call() for _ in range(32)))
            took = perf_counter() - begin
            await experiments.close()
            return number / took

    return asyncio.run(run())


def report_ms(folder: Path, rows: int, units: int, rounds: int) -> float:
    """Return milliseconds of a report over so many outcomes."""
    file = folder / "report.db"

    async def run() -> float:
        with closing(Database.open(str(file))) as database:
            experiments = manager(database)
            await _begun(experiments)
            for start in range(0, units, 500):
                for index in range(start, start + 500):
                    key = str(index)
                    exposed = experiments.expose(
                        experiments.assign(NAME, key), request_id=key, model_digest="", seed=0,
                        instruction="", instruction_tokens=1,
                    )  # fmt: skip
                    assert exposed is not None
                outcome = OutcomeCommand(
                    exposure_id=None, unit=str(start), name="score", value=float(start % 7),
                    key=f"first-{start}", at=None,
                )  # fmt: skip
                await experiments.record(NAME, [outcome])
            with closing(sqlite3.connect(file, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute(
                    "INSERT INTO experiment_outcomes (experiment, key, exposure, unit, phase, "
                    "name, value, at, is_orphan) WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL "
                    f"SELECT i + 1 FROM n WHERE i < {rows - 1}) SELECT 1, "
                    "CAST(printf('%016d', i) AS BLOB), NULL, NULL, 1, 'score', 1.0, 0.0, 0 FROM n"
                )
            samples = []
            for _ in range(rounds + 1):
                begin = perf_counter()
                await experiments.report(NAME, 0)
                samples.append((perf_counter() - begin) * 1e3)
            await experiments.close()
            return statistics.median(samples[1:])

    return asyncio.run(run())


def simulate(shares: tuple[float, float], runs: int, looks: int, step: int, planned: int) -> float:
    """Return the share of runs that ever show a difference, looked at after every step."""
    generator = np.random.default_rng(1)
    totals = [np.cumsum(generator.binomial(step, share, (runs, looks)), axis=1) for share in shares]
    units = step * np.arange(1, looks + 1)
    means = [total / units for total in totals]
    spread = sum(mean * (1 - mean) for mean in means) / np.maximum(units - 1, 1)
    error = np.maximum(np.sqrt(spread), 1e-12)
    p = sequential.p_value(
        means[1] - means[0], error, 2 * units, planned_units=planned, alpha=_ALPHA
    )
    return float((p[:, units >= _BURN_IN] < _ALPHA).any(axis=1).mean())


@contextmanager
def _served(threads: int) -> Iterator[str]:
    with server(threads, "auto") as address:
        with Client(address) as client:
            client.create_recipe(_RECIPE)
            client.experiments.create(
                {
                    "name": NAME,
                    "variants": [
                        {"key": "a", "recipe": "fixed", "weight": 0.5, "control": True},
                        {"key": "b", "recipe": "fixed", "weight": 0.5},
                    ],
                    "metrics": [
                        {"name": "total_ms", "kind": "mean", "direction": "decrease",
                         "role": "primary"},
                    ],
                }
            )  # fmt: skip
            client.experiments.start(NAME)
        yield address


def latency(report: Report, threads: int, rounds: int) -> None:
    """Record what naming an experiment adds to a request, one at a time."""
    numbers = count()
    with _served(threads) as address, asyncio.Runner() as runner:
        runner.get_loop()
        client = AsyncClient(address)

        async def ask(*, with_experiment: bool) -> float:
            number = next(numbers)
            text = f"Number {number} of all numbers"
            begin = perf_counter()
            if with_experiment:
                answer = await client.generate(
                    text, experiment=NAME, unit=f"u{number}", max_tokens=_NEW_TOKENS, seed=1
                )
            else:
                answer = await client.generate(text, recipe="fixed", max_tokens=_NEW_TOKENS, seed=1)
            took = perf_counter() - begin
            assert answer.usage.output_tokens == _NEW_TOKENS
            return took

        samples = interleave(
            {
                "experiment": lambda: runner.run(ask(with_experiment=True)),
                "plain": lambda: runner.run(ask(with_experiment=False)),
            },
            rounds,
        )
        runner.run(client.close())
    for name, values in samples.items():
        report.detail(f"request_{name}_seconds", values)
    report.figure("latency_overhead", ratio(samples, "experiment", "plain") - 1)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=10_000_000, help="outcomes behind a report")
    parser.add_argument("--only", choices=_PARTS, help="one part of the whole")
    options = parser.parse_args()
    report = Report("experiments", options)
    for name, part in _PARTS.items():
        if options.only in (None, name):
            part(report, options)
    report.finish()


def _assignment(report: Report, options: Namespace) -> None:
    report.figure("assign_us", assign_us(5_000 if options.quick else 200_000))


def _errors(report: Report, options: Namespace) -> None:
    runs = 200 if options.quick else 4000
    report.figure("aa_false_positives", simulate((0.3, 0.3), runs, 200, 50, 5000))
    needed = units_needed(
        effect=0.05, deviation=float(np.sqrt(0.3 * 0.7)), method=Method.SEQUENTIAL
    )
    report.figure("power", simulate((0.3, 0.35), runs, 100, needed // 200, needed))


def _store(report: Report, options: Namespace) -> None:
    number = 2_000 if options.quick else 50_000
    with TemporaryDirectory() as folder:
        report.detail("outcomes_per_s_alone", [sustained(Path(folder), number)])
        with _at_work():
            report.figure("outcomes_per_s", sustained(Path(folder), number))


def _report(report: Report, options: Namespace) -> None:
    rows = 10_000 if options.quick else options.rows
    with TemporaryDirectory() as folder:
        report.figure("report_ms", report_ms(Path(folder), rows, 2000, options.rounds))


def _latency(report: Report, options: Namespace) -> None:
    latency(report, options.threads, 2 if options.quick else 20 * options.rounds)


_PARTS: Final[dict[str, Callable[[Report, Namespace], None]]] = {
    "assignment": _assignment,
    "errors": _errors,
    "store": _store,
    "report": _report,
    "latency": _latency,
}


if __name__ == "__main__":
    main()
