"""Clients whose patterns are meant to hurt, beside streams that should not notice."""

import subprocess
import sys
import threading
import time

import numpy as np

from benchmarks.harness import Report


def hostile(report: Report) -> None:
    """Let 64 clients compile hostile patterns while streams run; compare latencies between tokens.

    Server, streams and attackers are a process each and share this machine.
    """
    from tests.live_server import LiveServer

    quick = report.options.quick
    rounds = 1 if quick else 2
    num_tokens = 16 if quick else 128
    with LiveServer(runner=report.options.runner) as server:
        gaps(server.address, num_tokens)
        calm = [gap for _ in range(rounds) for gap in gaps(server.address, num_tokens)]
        module, count = "benchmarks.constraints.attackers", "4" if quick else "64"
        attackers = subprocess.Popen([sys.executable, "-m", module, server.address, count])
        try:
            time.sleep(3)
            attacked = [gap for _ in range(rounds) for gap in gaps(server.address, num_tokens)]
        finally:
            attackers.kill()
            attackers.wait()
    calm_p99, attacked_p99 = (float(np.percentile(one, 99)) for one in (calm, attacked))
    report.detail("itl_p50_calm_seconds", calm)
    report.detail("itl_p50_hostile_seconds", attacked)
    report.detail("itl_p99_calm_seconds", [calm_p99])
    report.detail("itl_p99_hostile_seconds", [attacked_p99])
    report.figure("hostile_itl_p99_ratio", attacked_p99 / calm_p99)


def gaps(address: str, num_tokens: int) -> list[float]:
    """Return the seconds between the messages of four streams."""
    from bosal_client import Client

    found: list[float] = []

    def stream(seed: int) -> None:
        endless = [{"rule": "logit_bias", "ids": {"0": -1000}}]
        with Client(address) as client, client.stream(
            "Tell me about rivers.", max_tokens=num_tokens, seed=seed, overrides=endless
        ) as batches:  # fmt: skip
            times = [time.perf_counter() for _ in batches]
        found.extend(np.diff(times).tolist())

    threads = [threading.Thread(target=stream, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
