"""kill -9 at work: what was acknowledged is there, and counted once."""

import json
import subprocess
import sys
from pathlib import Path

from tests.live_server import environment


def test_ten_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "kills.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", f"--json={file}", "kills", "--kills=10"],
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())["figures"]
    assert figures["kills"] == 10
    assert figures["kills_acknowledged"] > 0
