"""Where servers of the tests are forked from one process that has imported what all of them import.

A server so started is a process of its own with the arguments, environment and streams it is given,
and runs `python -m bosal_server`, or another module, from its first line to its last; only the ten
seconds of imports that it shares with the others are behind it.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Final

# Read by libraries as they are imported, so the same for all.
SHARED: Final = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
_MAX_REQUEST: Final = 2**20


class Forked:
    """A server from the nursery, handled like a `subprocess.Popen`."""

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], stderr: IO[str]
    ) -> None:
        read, write = os.pipe()
        self.stdout = os.fdopen(read)
        self.returncode: int | None = None
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "cwd": os.getcwd(),
        }
        files = [write, stderr.fileno(), theirs.fileno()]
        socket.send_fds(_nursery(), [json.dumps(request).encode()], files)
        os.close(write)
        theirs.close()
        self.pid = int(self._told())

    def _told(self) -> str:
        told = self._status.recv(32).decode()
        assert told, "the nursery has ended"
        return told

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = int(self._told())
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("bosal_server", timeout or 0) from None
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _nursery() -> socket.socket:
    """Start the process that forks; it ends when nobody can ask it any more."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        # Some library has a thread of its own, which a fork leaves behind as it should.
        [sys.executable, "-Wignore::DeprecationWarning:__main__", "-m", "tests.nursery"]
        + [str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, **SHARED, "PYTHONPATH": path},
        cwd=Path(__file__).parents[1],
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


def _fork_all(requests: socket.socket) -> None:
    """Fork a server for each request, until there can be no further one."""
    # Those who wait for the servers, below, are waited for by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, files, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 3)
        if not data:
            return
        if os.fork():
            for file in files:
                os.close(file)
            continue
        requests.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        stdout, stderr, status = files
        server = os.fork()
        if server:
            os.close(stdout)
            os.close(stderr)
            os.write(status, str(server).encode())
            code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
            os.write(status, str(code).encode())
            os._exit(0)
        os.close(status)
        for file, place in ((stdout, 1), (stderr, 2)):
            os.dup2(file, place)
            os.close(file)
        request = json.loads(data)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        # It ends as any other: nanobind takes for leaked what no collection has seen by then.
        atexit.register(gc.unfreeze)
        sys.argv = [request["module"], *request["arguments"]]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import transformers.models.llama.modeling_llama  # noqa: F401

    import bosal_server.main  # noqa: F401

    # What is imported stays: no server need walk through it as it starts.
    gc.collect()
    gc.freeze()
    _fork_all(socket.socket(fileno=int(sys.argv[1])))
    # Not two seconds of taking apart what the kernel takes at once.
    os._exit(0)
