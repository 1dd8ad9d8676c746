"""A Prometheus that really scrapes: the dashboard's queries and the alert rules, evaluated."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live_server import LiveServer, eventually
from tests.prometheus import PROGRAM, Prometheus, scraping

from bosal_client import Client, NotFound

DEPLOY = Path(__file__).parents[1] / "deploy"
BOARD = json.loads((DEPLOY / "grafana.json").read_text())
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
# What nothing happened for has no series: nobody was refused here, nothing is read but arguments,
# no experiment runs.
QUIET = (
    "bosal_refusals_total",
    "bosal_auth_failures_total",
    "bosal_sample_ratio_mismatch",
    "bosal_config_last_reload_successful",
    "bosal_certificate_expiry_timestamp_seconds",
)


@pytest.fixture(scope="module")
def prometheus(server: LiveServer) -> Iterator[Prometheus]:
    if PROGRAM is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    with (
        Client(server.address) as client,
        scraping(server.metrics_url, DEPLOY / "alerts.yml") as it,
    ):

        def has_rates() -> bool:
            client.generate("Hello", max_tokens=4)
            letters = {"regex": "[a-z]+"}
            client.generate("Hi", max_tokens=4, recipe="rules", explain=True, constraint=letters)
            with pytest.raises(NotFound):
                client.generate("Hello", recipe="nobody")
            return bool(it.query("rate(bosal_generated_tokens_total[1m]) > 0"))

        assert eventually(has_rates)
        yield it


def test_every_query_of_the_dashboard_finds_what_it_asks_for(prometheus: Prometheus) -> None:
    assert len(QUERIES) >= 15
    for query in QUERIES:
        found = prometheus.query(query.replace("$__rate_interval", "1m"))
        if not any(name in query for name in QUIET):
            assert found, query


def test_the_alert_rules_are_evaluated_and_none_fires(prometheus: Prometheus) -> None:
    assert eventually(
        lambda: all(
            rule["health"] == "ok"
            for group in prometheus.ask("rules")["groups"]
            for rule in group["rules"]
        )
    )
    names = {rule["name"] for group in prometheus.ask("rules")["groups"] for rule in group["rules"]}
    assert len(names) >= 5
    assert not [alert for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]
