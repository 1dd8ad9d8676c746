"""Asks a process of its own, which is killed when it takes too long or too much memory.

What counts is the processor time that an answer takes: a machine that is busy with something else
is no reason to refuse what is asked. Waiting has a bound, too.
"""

import json
import os
import selectors
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import clock_gettime, monotonic
from typing import Any, Final

from bosal_decoding.constraints.limits import COMPILE_BYTES

_WORKER: Final = Path(__file__).with_name("worker.py")
# Lower than the server's: an attacker's patterns wait for the streams, not the streams for them.
_NICENESS: Final = 10
_START_SECONDS: Final = 20.0
# How much longer than its processor time an answer may take.
_PATIENCE: Final = 5.0
_LOOK_SECONDS: Final = 0.05
_MAX_ANSWER_BYTES: Final = 1 << 20


class TrialKilled(Exception):
    """Raised when the process gave no answer in time, or died."""


class TrialProcess:
    """One such process, started when it is first asked and again after it was killed."""

    def __init__(self, max_bytes: int = COMPILE_BYTES, *, library: str = "") -> None:
        """Bound its memory; `library` is made ready when it starts, before any time is counted."""
        self._max_bytes = max_bytes
        self._library = library
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer.

        Raises:
            TrialKilled: it took more than `seconds` of processor time, or five times as long for
                want of a processor, or the process died of it.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                return self._exchange(request, seconds)
            except (OSError, ValueError, TrialKilled) as error:
                self._kill()
                raise TrialKilled(str(error)) from None

    def close(self) -> None:
        # Whoever waits for an answer gets none, and lets go of the lock.
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._kill()

    def _start(self) -> None:
        # Isolated, so that neither the folder of the file nor the environment adds modules.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER), str(self._max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICENESS)
        self._exchange({"do": "start", "library": self._library}, _START_SECONDS)

    def _exchange(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        used = _processor_seconds(process.pid)
        deadline = monotonic() + seconds * _PATIENCE
        answer = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(min(_LOOK_SECONDS, seconds)):
                    is_spent = _processor_seconds(process.pid) - used > seconds
                    if is_spent or monotonic() > deadline:
                        raise TrialKilled(f"no answer within {seconds:g} s")
                    continue
                part = os.read(process.stdout.fileno(), 65536)
                if not part or len(answer) > _MAX_ANSWER_BYTES:
                    raise TrialKilled("the process died")
                answer += part
        result: dict[str, Any] = json.loads(answer)
        return result

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _processor_seconds(pid: int) -> float:
    """Return what a child has used; where the system does not tell, the time that passes."""
    # The clock of a process, as clock_getcpuclockid(3) makes it on Linux.
    with suppress(OSError):
        return clock_gettime((~pid << 3) | 2) if sys.platform == "linux" else monotonic()
    return monotonic()
