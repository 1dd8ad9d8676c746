"""An evaluation against the real server: killed in the middle, it goes on to the same answers."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.lab import records

from bosal_client import user
from bosal_lab.compare import compare
from bosal_lab.evaluate import Settings
from bosal_lab.evaluation_errors import ServerLostError
from bosal_lab.evaluation_run import Request, run_evaluation
from bosal_lab.item import Item, Score, Suite
from bosal_lab.local_server import LocalServerError, serving
from bosal_lab.record import Record
from bosal_lab.results import Results

INSTRUCTIONS = ("Name a river.", "What is the moon?", "Über die Brücke?", "one two three", "Q: A:")
SUITE = Suite(
    name="small",
    scorer=records.Right(),
    items=tuple(
        Item(
            id=f"i{number}",
            category="talk" if number % 2 else "question",
            split="test",
            messages=(user(text), user("And then?")) if number % 2 else (user(text),),
            reference="yes",
        )
        for number, text in enumerate(INSTRUCTIONS)
    ),
)
REQUEST = Request(
    arms=(
        ("", "plain"),
        ("", "rules"),
        ("", {"name": "warm", "scaffold": {"kind": "plain"}, "rules": []}),
    ),
    seed=5,
    max_tokens=10,
    settings=Settings(samples=2, window=4),
)


def answers(path: Path) -> dict[tuple[str, str, int], tuple[int, tuple[int, ...], str]]:
    with Results.open(path) as results:
        found = [record for arm in results.arms for record in results.records(arm)]
    assert not any(record.error for record in found)
    return {
        (record.arm, record.item, record.sample): (record.seed, record.token_ids, record.text)
        for record in found
    }


@pytest.mark.long
def test_a_killed_server_costs_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole.sqlite", tmp_path / "broken.sqlite"
    add = Results.add
    with serving({"tiny": tiny_model}) as server:
        asyncio.run(run_evaluation(server.address, whole, SUITE, REQUEST, "whole"))

        def add_then_kill(results: Results, record: Record, score: Score | None) -> None:
            add(results, record, score)
            if len(results.done(with_errors=True)) == 7:
                os.kill(server.pid, signal.SIGKILL)

        monkeypatch.setattr(Results, "add", add_then_kill)
        with pytest.raises(ServerLostError, match=r"of 30 answers are in .*broken.sqlite"):
            asyncio.run(run_evaluation(server.address, broken, SUITE, REQUEST, "first"))
        monkeypatch.undo()
    kept = answers(broken)
    assert 7 <= len(kept) < 30
    with serving({"tiny": tiny_model}) as server:
        asyncio.run(run_evaluation(server.address, broken, SUITE, REQUEST, "second"))
    assert len(answers(whole)) == 30
    assert answers(broken) == answers(whole)
    with Results.open(broken) as results:
        assert [run["command"] for run in results.runs] == ["first", "second"]
        assert results.floors
        record = next(results.records("tiny/plain"))
        assert len(record.ranks) == len(record.token_ids) > 0
        assert min(record.ranks) >= 1
        (found,) = compare(results, "tiny/plain", ["tiny/warm"])
    # The same rules under the same noise: the two recipes cannot be told apart.
    assert found.divergence.identical == found.divergence.pairs == 10


def test_a_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalServerError, match="did not start"), serving({"no name": tmp_path}):
        pass
