"""The server that is measured or worn out: a process of its own on a random model."""

import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import models
from benchmarks.announcement import Announcement

_BASELINE_SECONDS = 2.5

MODEL = models.TINY


def add_subject_options(parser: ArgumentParser) -> None:
    """Let who measures choose what is measured."""
    known = [models.TINY, *models.SHAPES]
    parser.add_argument("--model", default=MODEL, choices=known, help="of the server")
    parser.add_argument("--runner", default="torch", help="of the server")


def endless(model: str = MODEL) -> list[dict[str, object]]:
    """Return the overrides under which an answer has as many tokens as it may."""
    return [{"rule": "logit_bias", "ids": {str(models.end_of_text(model)): -1000}}]


class Subject:
    """A running server and what can be seen of it from outside."""

    def __init__(
        self, process: subprocess.Popen[str], address: str, metrics_url: str, log: Path
    ) -> None:
        self.process = process
        self.address = address
        self.metrics_url = metrics_url
        self._log = log
        self._system = psutil.Process(process.pid)
        # Tasks are counted once a second.
        time.sleep(_BASELINE_SECONDS)
        self._idle_tasks = self.metric("bosal_event_loop_tasks")

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Scrape every sample."""
        with urlopen(self.metrics_url) as response:
            text = response.read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics().get((name, frozenset(labels.items())), 0.0)

    def total(self, name: str) -> float:
        """Sum a metric over its labels."""
        return sum(value for (found, _), value in self.metrics().items() if found == name)

    def resident_mib(self) -> float:
        return float(self._system.memory_info().rss) / 2**20

    def limit_files(self, size: int | None) -> None:
        """Let no file of the process grow beyond a size, as on a full disk; None: let them."""
        _, hard = self._system.rlimit(psutil.RLIMIT_FSIZE)
        self._system.rlimit(psutil.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def held(self) -> float:
        """Count choices, blocks and tasks that are held; once no call runs it has to be 0."""
        return (
            self.total("bosal_running_groups")
            + self.total("bosal_waiting_groups")
            + self.total("bosal_kv_blocks_used")
            + max(0.0, self.metric("bosal_event_loop_tasks") - self._idle_tasks)
        )

    def leaked(self, patience: float = 30.0) -> float:
        """Wait until nothing is held; return what still is."""
        until = time.monotonic() + patience
        while (held := self.held()) and time.monotonic() < until:
            time.sleep(0.25)
        return held

    def check(self) -> None:
        """Raise if the server died or an exception reached its log."""
        assert self.process.poll() is None, f"the server ended\n{self.log()[-3000:]}"
        assert "Traceback" not in self.log(), self.log()[-3000:]

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def subject(
    *options: str,
    module: str = "bosal_server",
    model: str = MODEL,
    runner: str = "torch",
    **variables: str,
) -> Iterator[Subject]:
    """Run a server of one model; it has to end in order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models.save(model, folder / "model")
        command = [sys.executable, "-m", module, "serve", f"--model={model}={folder / 'model'}"]
        command += [f"--runner={runner}", "--threads=1", "--port=0", "--metrics-port=0"]
        command += ["--lame-duck-seconds=0", "--drain-seconds=5", *options]
        if not any(option.startswith("--database") for option in options):
            command.append("--database=temporary")
        log = folder / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
            )
        assert process.stdout is not None
        try:
            ready = Announcement.read(process.stdout, log.read_text)
            yield Subject(process, ready.address, ready.metrics, log)
            process.terminate()
            code = process.wait(60)
            assert code == 0, f"exit code {code}\n{log.read_text()[-3000:]}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
