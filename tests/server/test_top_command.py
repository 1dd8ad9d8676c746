"""`bosal top` draws what a scrape says happened since the one before."""

import math
from io import StringIO

import pytest
from prometheus_client import generate_latest
from rich.console import Console

from bosal_server.engine.observer import BlockStats, EngineStats
from bosal_server.metrics import Metrics
from bosal_server.top_command import Scrape, frame, quantile


def test_a_frame_shows_what_happened_between_two_scrapes() -> None:
    metrics = Metrics()
    stats = EngineStats(
        running=5,
        waiting=2,
        waiting_requests=1,
        num_steps=1,
        blocks={"base": BlockStats(used=3, free=9, findable=0, total=12)},
    )
    metrics.watch(lambda: stats, ["base"])

    def scrape(at: float) -> Scrape:
        return Scrape.parse(generate_latest(metrics.registry).decode(), at)

    metrics.count_error("Generate", "NOT_FOUND")
    before = scrape(10.0)
    for _ in range(8):
        metrics.observe_lag(0.0015)
        metrics.count_refusal("QUEUE_FULL")
    metrics.prefix("base", 100, 40)
    output = StringIO()
    Console(width=80, file=output).print(frame(before, scrape(14.0)))
    lines = output.getvalue().splitlines()

    def row(*cells: str) -> bool:
        return any(all(cell in line for cell in cells) for line in lines)

    assert row("choices running", "5")
    assert row("choices waiting", "2")
    assert row("key-value blocks of base", "25%")
    assert row("prefix cache hits", "40%")
    # Between 1 and 2 ms.
    assert row("event loop lag", "1.5")
    assert row("first token", "-")
    assert row("QUEUE_FULL", "2.0")
    # It happened before.
    assert not row("NOT_FOUND")


def test_quantiles_are_those_of_prometheus() -> None:
    edges = {"0.1": 10.0, "0.2": 30.0, "+Inf": 40.0}
    assert quantile(edges, 0.5) == pytest.approx(0.15)
    assert quantile(edges, 0.99) == 0.2
    assert math.isnan(quantile({"+Inf": 0.0}, 0.5))
