"""`bosal top` draws what a scrape says happened since the one before."""

import math
import socket
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from threading import Thread

import pytest
import typer
from grpc import StatusCode
from prometheus_client import generate_latest
from rich.console import Console
from tests.live_server import LiveServer
from typer.testing import CliRunner

from bosal_client.cli import application
from bosal_server.engine.observer import BlockStats, EngineStats
from bosal_server.metrics import Metrics
from bosal_server.top_command import Scrape, frame, quantile, top


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
        # A call that is refused is counted as both.
        metrics.count_error("Generate", "RESOURCE_EXHAUSTED")
        metrics.count_refusal("QUEUE_FULL")
    metrics.prefix("base", 100, 40)
    output = StringIO()
    Console(width=80, file=output).print(frame(before, scrape(14.0)))
    lines = output.getvalue().splitlines()

    def row(*cells: str) -> bool:
        return any(all(cell in line for cell in cells) for line in lines)

    assert row("choices running", "5")
    assert row("choices waiting", "2")
    assert row("blocks of base", "25%")
    assert row("prefix cache hits", "40%")
    # Between 1 and 2 ms.
    assert row("event loop lag", "1.5")
    assert row("first token", "-")
    assert row("QUEUE_FULL", "2.0")
    assert not row("RESOURCE_EXHAUSTED")
    # It happened before.
    assert not row("NOT_FOUND")


def test_a_frame_fits_a_terminal() -> None:
    models = ["amateur", "base", "base-small", "tuned-small"]
    metrics = Metrics()
    blocks = {model: BlockStats(used=3, free=9, findable=0, total=12) for model in models}
    stats = EngineStats(running=5, waiting=2, waiting_requests=1, num_steps=1, blocks=blocks)
    metrics.watch(lambda: stats, models)
    before = Scrape.parse(generate_latest(metrics.registry).decode(), 1.0)
    codes = [code.name for code in StatusCode if code is not StatusCode.OK]
    for number, code in enumerate(codes):
        for _ in range(number + 1):
            metrics.count_error("Generate", code)
    output = StringIO()
    now = Scrape.parse(generate_latest(metrics.registry).decode(), 2.0)
    Console(width=80, file=output).print(frame(before, now))
    shown = output.getvalue()
    assert len(shown.splitlines()) <= 24
    assert "blocks of tuned-small │ 25%" in shown
    # The most frequent by name, and the others' sum.
    assert codes[-1] in shown
    assert codes[0] not in shown
    assert f"{sum(range(len(codes) - 4)):.1f}" in shown
    assert "none" in shown


@pytest.mark.parametrize("url", ["localhost:no", "http://127.0.0.1:no/metrics"])
def test_an_address_that_is_none_is_refused_on_one_line(url: str) -> None:
    ended = CliRunner().invoke(application(), ["top", "--once", "--metrics", url])
    assert ended.exit_code == 69, ended.output
    assert url in ended.output


def test_a_host_and_a_port_will_do(server: LiveServer) -> None:
    _, _, where = server.metrics_url.partition("://")
    for address in (where, where.removesuffix("/metrics")):
        arguments = ["top", "--once", "--interval=0.2", "--metrics", address]
        ended = CliRunner().invoke(application(), arguments)
        assert ended.exit_code == 0, ended.output
        assert "choices running" in ended.stdout


def test_one_interval_ends_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    scrape = Scrape.parse(generate_latest(Metrics().registry).decode(), 1.0)
    monkeypatch.setattr("bosal_server.top_command._scrape", lambda url: scrape)
    ended = CliRunner().invoke(application(), ["top", "--once", "--interval=0.2"])
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith("load")
    assert ended.stdout.endswith("\n")


def test_quantiles_are_those_of_prometheus() -> None:
    edges = {"0.1": 10.0, "0.2": 30.0, "+Inf": 40.0}
    assert quantile(edges, 0.5) == pytest.approx(0.15)
    assert quantile(edges, 0.99) == 0.2
    assert math.isnan(quantile({"+Inf": 0.0}, 0.5))


class _NoMetrics(BaseHTTPRequestHandler):
    """Answers as a page that is no metrics, or as no web server at all."""

    def do_GET(self) -> None:
        if self.path == "/page":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Hello</html>")
        else:
            self.wfile.write(b"PRI * HTTP/2.0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _NoMetrics) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "url", ["http://{}/page", "http://{}/other", "{}/metrics", "http://{closed}/metrics"]
)
def test_an_address_without_metrics_is_an_error_in_a_line(
    url: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.socket()) as unheard:
        # Bound but not listening, so nobody else's either.
        unheard.bind(("127.0.0.1", 0))
        asked = url.format(address, closed=f"127.0.0.1:{unheard.getsockname()[1]}")
        with pytest.raises(typer.Exit) as ended:
            top(url=asked, interval=0.2, once=True)
    assert ended.value.exit_code == 69
    said = capsys.readouterr().err
    assert f"error: {asked}: " in said
    assert "Errno" not in said
