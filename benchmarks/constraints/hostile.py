"""Clients whose patterns are meant to hurt, beside streams that should not notice."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil

from benchmarks.harness import Report

# What else runs beside the streams: nothing, 64 clients that ask for nothing, 64 that are refused
# before any work, and 64 whose patterns are hostile. The two in the middle tell what clients cost
# this machine whatever they send.
_KINDS = ("calm", "idle", "refused", "hostile")
_HOLD_SECONDS = 1.0  # behind their connections, until the clients' first requests are there


def hostile(report: Report) -> None:
    """Let 64 clients compile hostile patterns while streams run; compare latencies between tokens.

    Server, streams and attackers are a process each and share this machine.
    """
    from tests.live_server import LiveServer

    quick = report.options.quick
    rounds = 1 if quick else 3
    num_tokens = 16 if quick else 192
    found: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    used: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    with LiveServer(runner=report.options.runner) as server:
        gaps(server.address, num_tokens)
        for _ in range(rounds):
            for kind in _KINDS:
                with clients(server.address, kind, 4 if quick else 64):
                    before, started = processor_seconds(server.process.pid), time.perf_counter()
                    found[kind] += gaps(server.address, num_tokens)
                    seconds = time.perf_counter() - started
                    used[kind].append((processor_seconds(server.process.pid) - before) / seconds)
    for kind in _KINDS:
        for percent in (50, 99):
            value = float(np.percentile(found[kind], percent))
            report.detail(f"itl_p{percent}_{kind}_seconds", [value])
        report.detail(f"server_processors_{kind}", used[kind])
    p99 = {kind: float(np.percentile(found[kind], 99)) for kind in _KINDS}
    report.figure("hostile_itl_p99_ratio", p99["hostile"] / p99["calm"])
    report.figure("refused_itl_p99_ratio", p99["refused"] / p99["calm"])
    report.figure("idle_itl_p99_ratio", p99["idle"] / p99["calm"])


@contextmanager
def clients(address: str, kind: str, count: int) -> Iterator[None]:
    """Run clients of a kind in a process of their own."""
    if kind == "calm":
        yield
        return
    module = "benchmarks.constraints.attackers"
    command = [sys.executable, "-m", module, address, str(count), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"connected\n"
        time.sleep(_HOLD_SECONDS)
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def processor_seconds(pid: int) -> float:
    """Return the processor time a process has used, without its children."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def gaps(address: str, num_tokens: int) -> list[float]:
    """Return the seconds between the messages of four streams."""
    from bosal_client import Client

    found: list[float] = []
    recipe = {"rules": [{"rule": "min_tokens", "value": num_tokens}]}

    def stream(seed: int) -> None:
        with Client(address) as client, client.stream(
            "Tell me about rivers.", recipe=recipe, max_tokens=num_tokens, seed=seed
        ) as batches:  # fmt: skip
            times = [time.perf_counter() for _ in batches]
        found.extend(np.diff(times).tolist())

    threads = [threading.Thread(target=stream, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
