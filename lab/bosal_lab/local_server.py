"""A server of one's own for as long as an evaluation takes."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bosal_lab.evaluation_errors import EvaluationError

__all__ = ["LocalServer", "LocalServerError", "serving"]

_READY = "ready at "
_STOP_SECONDS = 30


class LocalServerError(EvaluationError):
    """Raised when the server does not start; it said why on standard error."""

    exit_code = 70

    def __init__(self) -> None:
        super().__init__("the server did not start")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """A server that is up."""

    address: str
    pid: int


@contextmanager
def serving(models: Mapping[str, object]) -> Iterator[LocalServer]:
    """Serve models by name from their folders on a free port."""
    command = [sys.executable, "-m", "bosal_server", "serve", "--port", "0", "--metrics-port", "-1"]
    command += ["--database=temporary", "--lame-duck-seconds=0"]
    for name, folder in models.items():
        command += ["--model", f"{name}={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith(_READY):
            raise LocalServerError
        address = line.removeprefix(_READY).strip().partition(",")[0]
        yield LocalServer(address=address, pid=process.pid)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
