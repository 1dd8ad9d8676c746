"""kill -9 at work: what was acknowledged is there, and counted once."""

import subprocess
import sys

from tests.live_server import environment


def test_ten_kills_lose_nothing_that_was_acknowledged() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "store", "--kills=10"],
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10 kills:")
