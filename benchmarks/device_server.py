"""A whole server on a CUDA device, asked over gRPC, beside one on the CPU: their texts are equal.

The embedded model in float32, greedy, by the recipes that come with the server. Without a device
both are on the CPU, which shows nothing but that this runs.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from time import perf_counter
from types import TracebackType
from typing import Self

import torch

from benchmarks.announcement import Announcement
from benchmarks.harness import Report, arguments, say
from bosal_client import Client

PROMPTS = (
    "What is the capital of France?",
    "Which river flows through the city?",
    "List three colours of the flag.",
    "Is water wet?",
)
# What decides between two tokens is far from the last digit here; no text is long.
MAX_TOKENS = 32
# What a server imports at its start and these requests do not reach: reports of experiments, and
# certificates. A machine without a network may lack them.
_UNUSED = ("statsmodels", "cryptography")
_START = """
import runpy, sys
from unittest import mock
class Absent:
    def find_spec(self, name, path=None, target=None):
        import importlib.machinery
        if name.partition('.')[0] in {absent!r}:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        found = mock.MagicMock()
        found.__path__ = []
        return found
    def exec_module(self, module): pass
sys.meta_path.append(Absent())
sys.argv[0] = 'bosal_server'
runpy.run_module('bosal_server', run_name='__main__')
"""


class Server:
    """`bosal serve` on a device, in a process of its own; use it in `with`."""

    def __init__(self, device: str) -> None:
        self._begin = perf_counter()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        absent = [name for name in _UNUSED if find_spec(name) is None]
        options = {
            "device": device, "dtype": "float32", "runner": "torch", "port": "0",
            "metrics-port": "-1", "database": "temporary", "model": "base",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", _START.format(absent=set(absent) or {""}), "serve"),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"BOSAL_LAME_DUCK_SECONDS": "0"},
            text=True,
        )

    def address(self) -> str:
        """Wait until it is ready."""
        ready = Announcement.read(self._process.stdout, self.errors)
        self.seconds_to_ready = perf_counter() - self._begin
        return ready.address

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-4000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


def texts(client: Client, recipe: str) -> list[str]:
    """Ask everything at once, greedily."""

    def ask(prompt: str) -> str:
        greedy = [{"rule": "temperature", "value": 0}]
        found = client.generate(
            prompt, recipe=recipe, overrides=greedy, max_tokens=MAX_TOKENS, seed=1, timeout=60
        )
        return found.text

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(ask, PROMPTS))


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    report = Report("device_server", options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    differing = 0
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(name)) for name in ("cpu", device)]
        clients = [stack.enter_context(Client(server.address())) for server in servers]
        say(f"ready on {device} after {servers[1].seconds_to_ready:.1f} s")
        report.detail("seconds_to_ready", [servers[1].seconds_to_ready])
        kernels = clients[1].server_info().kernels
        say(f"kernels: {kernels.backend}; fused: {', '.join(kernels.fused_rules) or 'none'}")
        report.note("kernels", kernels.backend)
        report.note("fused_rules", " ".join(kernels.fused_rules))
        for recipe in ("plain", "steered"):
            begin = perf_counter()
            wanted, found = (texts(client, recipe) for client in clients)
            for prompt, ours, theirs in zip(PROMPTS, found, wanted, strict=True):
                differing += ours != theirs
                say(f"{recipe}: {prompt} {'equal' if ours == theirs else 'OTHER'}: {ours!r}")
            say(f"{recipe}: {perf_counter() - begin:.1f} s on both")
            report.write()
        say(servers[1].errors())
    report.figure("texts_that_differ", differing)
    report.finish()
    if differing or (device == "cuda" and kernels.backend != "triton"):
        sys.exit(1)


if __name__ == "__main__":
    main()
