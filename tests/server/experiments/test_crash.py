"""kill -9 at work: what was acknowledged is there, and counted once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.live_server import environment


def kills(folder: Path, *part: str) -> dict[str, float]:
    file = folder / "kills.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", f"--json={file}", *part],
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(file.read_text())["figures"]
    return figures


def test_ten_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    figures = kills(tmp_path, "kills", "--kills=10")
    assert figures["kills"] == 10
    assert figures["kills_acknowledged"] > 0


@pytest.mark.long
def test_a_killed_server_loses_nothing_that_was_acknowledged(
    tmp_path: Path, tiny_llama_folder: Path
) -> None:
    figures = kills(tmp_path, "server-kills", "--kills=2", f"--model={tiny_llama_folder}")
    assert figures["server_kills"] == 2
    assert figures["server_kills_acknowledged"] >= 2
