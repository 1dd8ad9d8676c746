"""A real server in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from tests import nursery

READY = re.compile(r"ready at (?P<address>[^,]+),.* metrics (?P<metrics>\S+)$")


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, so that a child imports what this one does.

    A server started in it writes nothing into the user's data directory.
    """
    defaults = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "BOSAL_DATABASE": "temporary",
        "BOSAL_LAME_DUCK_SECONDS": "0",
    }
    return {**os.environ, **defaults, **variables}


def started(
    *arguments: str, stderr: IO[str], module: str = "bosal_server", **variables: str
) -> nursery.Forked | subprocess.Popen[str]:
    """Start `python -m bosal_server`, or another module; its standard output is a pipe."""
    whole = environment(**{**nursery.SHARED, **variables})
    # With another path it may import other modules.
    if sys.platform == "linux" and "PYTHONPATH" not in variables:
        return nursery.Forked(module, arguments, whole, stderr)
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=whole,
    )


class LiveServer:
    """`python -m bosal_server serve`, or another module's `serve`, ready to be called."""

    def __init__(
        self,
        *options: str,
        runner: str = "torch",
        module: str = "bosal_server",
        **variables: str,
    ) -> None:
        self._stderr = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
        self.process = started(
            "serve",
            "--port=0",
            "--metrics-port=0",
            f"--runner={runner}",
            *options,
            stderr=self._stderr,
            module=module,
            **variables,
        )
        assert self.process.stdout is not None
        ready = READY.match(self.process.stdout.readline())
        assert ready is not None, self.errors()
        self.address = ready["address"]
        self.metrics_url = ready["metrics"]

    def errors(self) -> str:
        """What the server has written to standard error."""
        self._stderr.seek(0)
        return self._stderr.read()

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
        """Scrape one sample; 0 where there is none yet."""
        return self.metrics().get((name, frozenset(labels.items())), 0.0)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def serving(model: Path, *options: str) -> Iterator[LiveServer]:
    """Run a server that must end in order and without a traceback."""
    with LiveServer(f"--model=tiny={model}", *options) as server:
        yield server
        assert server.stop() == 0, server.errors()
        assert "Traceback" not in server.errors()


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for what another process does in its own time."""
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.05)
    return False
