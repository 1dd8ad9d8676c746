"""What a scrape shows after known requests."""

import socket
from functools import partialmethod
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tests.live_server import LiveServer

from bosal_client import Client, NotFound
from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.metrics import Metrics
from bosal_server.metrics_endpoint import _Server, exported

RULES = {"model": "tiny", "recipe": "rules", "variant": ""}
INLINE = {"model": "tiny", "recipe": "inline", "variant": ""}
ENDLESS = {"rule": "logit_bias", "ids": {"0": -1000}}
NAME = "came-with-its-request"
RECIPE = {"name": NAME, "rules": [ENDLESS]}


def test_a_known_request_is_counted_once_everywhere(server: LiveServer, client: Client) -> None:
    def scrape() -> dict[str, float]:
        samples = server.metrics()
        labels = frozenset(INLINE.items())
        model = frozenset({"model": "tiny"}.items())

        def sample(name: str, *extra: tuple[str, str]) -> float:
            return samples.get((f"bosal_{name}", labels | set(extra)), 0.0)

        return {
            "first": sample("time_to_first_token_seconds_count"),
            "gaps": sample("inter_token_latency_seconds_count"),
            "queue": samples.get(("bosal_request_queue_seconds_count", model), 0.0),
            "prefill": samples.get(("bosal_request_prefill_seconds_count", model), 0.0),
            "decode": samples.get(("bosal_request_decode_seconds_count", model), 0.0),
            "total": samples.get(("bosal_request_seconds_count", model), 0.0),
            "prompt": sample("prompt_tokens_total"),
            "generated": sample("generated_tokens_total"),
            "finished": sample("finished_choices_total", ("reason", "MAX_TOKENS")),
            "queried": samples.get(("bosal_prefix_cache_queries_total", model), 0.0),
            "steps": samples.get(("bosal_step_seconds_count", model | {("part", "forward")}), 0.0),
        }

    before = scrape()
    generation = client.generate("Hello", recipe=RECIPE, max_tokens=9, num_choices=2, seed=1)
    after = scrape()
    (prompt_tokens,) = generation.started.prompt_tokens

    difference = {name: after[name] - before[name] for name in after}
    steps = difference.pop("steps")
    assert difference == {
        "first": 1,
        "gaps": 16,
        "queue": 1,
        "prefill": 1,
        "decode": 1,
        "total": 1,
        "prompt": prompt_tokens,
        "generated": 18,
        "finished": 2,
        # Each choice looks its prompt up.
        "queried": 2 * prompt_tokens,
    }
    assert steps >= 9


def test_an_inline_recipe_never_becomes_a_label(server: LiveServer, client: Client) -> None:
    client.generate("Hello", recipe=RECIPE, max_tokens=1)
    recipes = {
        value for _, labels in server.metrics() for name, value in labels if name == "recipe"
    }
    assert NAME not in recipes
    assert "inline" in recipes


def test_errors_are_counted_by_code(server: LiveServer, client: Client) -> None:
    labels = {"method": "Generate", "code": "NOT_FOUND"}
    before = server.metric("bosal_errors_total", **labels)
    with pytest.raises(NotFound):
        client.generate("Hello", model="none")
    assert server.metric("bosal_errors_total", **labels) == before + 1


def test_blocks_are_reported(server: LiveServer, client: Client) -> None:
    (model,) = client.models()
    blocks = server.metric("bosal_kv_blocks", model="tiny")
    assert blocks > 0
    assert model.cache_tokens % blocks == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_endpoint_is_for_reading_alone(server: LiveServer, method: str) -> None:
    for url in (server.metrics_url, server.metrics_url.replace("/metrics", "/api/jobs")):
        with pytest.raises(HTTPError) as failure:
            urlopen(Request(url, method=method), timeout=30)
        with failure.value as refusal:
            assert refusal.code in (405, 501)


def test_the_endpoint_speaks_the_text_format(server: LiveServer) -> None:
    with urlopen(server.metrics_url) as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        assert b"# HELP bosal_running_groups" in response.read()


def test_strangers_that_ask_nothing_hold_few_threads_and_no_scrape(server: LiveServer) -> None:
    def threads() -> int:
        return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))

    host, _, port = (
        server.metrics_url.removeprefix("http://").removesuffix("/metrics").partition(":")
    )
    before = threads()
    idle = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        for connection in idle[::2]:
            connection.sendall(b"GET /metr")
        assert server.metric("bosal_running_groups", model="tiny") == 0
        assert threads() - before < 60
    finally:
        for connection in idle:
            connection.close()
    assert server.metrics()


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_the_endpoint_may_be_of_either_family(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, 0), family=family).close()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    config = ServerConfig(metrics_host=host, metrics_port=0)
    with exported(Metrics(), config) as address, urlopen(f"http://{address}/metrics") as response:
        assert b"bosal_errors" in response.read()


def test_an_address_that_is_none_is_named() -> None:
    for host in ("no such host", "a..b", "x" * 300):
        with (
            pytest.raises(InvalidConfig, match="cannot serve metrics at"),
            exported(Metrics(), ServerConfig(metrics_host=host)),
        ):
            pass


def test_its_end_waits_for_no_look_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Server, "serve_forever", partialmethod(_Server.serve_forever, 3600.0))
    with (
        exported(Metrics(), ServerConfig(metrics_port=0)) as address,
        urlopen(f"http://{address}/metrics") as response,
    ):
        assert response.status == 200
