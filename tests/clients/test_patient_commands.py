"""Commands that were turned away by a full server and come again, where they were told to."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.clients.command import bosal, run_here
from tests.live_server import LiveServer, serving

from bosal_client import Client

ENDLESS = [{"rule": "logit_bias", "ids": {"0": -1000}}]


@pytest.fixture(scope="module")
def small(tiny_model: Path) -> Iterator[LiveServer]:
    with serving(tiny_model, "--max-running=2", "--max-waiting=2") as live:
        yield live


@contextmanager
def filled(server: LiveServer) -> Iterator[None]:
    """Leave no room, until the four requests that take it are done."""
    with Client(server.address, retry_seconds=60) as client, ExitStack() as streams:
        for seed in range(4):
            stream = client.stream("Hi", max_tokens=200, overrides=ENDLESS, seed=seed)
            streams.enter_context(stream)
            assert stream.started.max_tokens == 200
        yield


@pytest.fixture(scope="module")
def record(small: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("records") / "record.json"
    file.write_text(bosal(small, "generate", "Hi", "--max-tokens=2", "--json").stdout, "utf-8")
    return file


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "Hi", "--max-tokens=2"),
        ("explain", "Hi", "--max-tokens=2"),
        ("compare", "Hi", "--max-tokens=2", "-r", "plain", "-r", "rules"),
        ("score", "Hi", "yes"),
        ("replay",),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_command_that_is_turned_away_comes_again_if_it_is_told(
    small: LiveServer, record: Path, command: tuple[str, ...]
) -> None:
    arguments = (*command, str(record)) if command == ("replay",) else command
    with filled(small):
        refused = bosal(small, *arguments)
        assert refused.returncode == 75, refused.stderr
        assert refused.stderr.count("try again in") == 1
        patient = bosal(small, *arguments, "--retry-seconds=200")
    assert patient.returncode == 0, patient.stderr
    assert patient.stderr == ""


def test_a_batch_which_comes_again_by_itself_takes_no_patience() -> None:
    files = ("--batch=in.jsonl", "--out=out.jsonl")
    refused = run_here("generate", *files, "--retry-seconds=9", variables={})
    assert refused.returncode == 2
    assert "--retry-seconds" in refused.stderr
