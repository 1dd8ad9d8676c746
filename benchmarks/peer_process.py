"""A peer in a process of its own, maybe of another Python: it answers each JSON line with one."""

import json
import os
import subprocess
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self


class PeerProcess:
    """A peer and, if it reads one, its folder; use it in `with`."""

    def __init__(
        self, command: Sequence[object], folder: TemporaryDirectory[str] | None = None
    ) -> None:
        """Run what begins with a line that tells its version."""
        self._folder = folder
        # How threads wait is each engine's own affair.
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.version = str(self._read()["version"])

    def ask(self, **question: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()
        if self._folder is not None:
            self._folder.cleanup()
