"""What is shipped to operate a server names metrics and settings that exist."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.live_server import LiveServer

from bosal_client import Client
from bosal_server.metrics import Metrics
from bosal_server.options import SETTINGS

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SUFFIXES = re.compile(r"_(bucket|count|sum|created)$")


def exported() -> set[str]:
    """Names of samples, as rules and dashboards write them."""
    return {metric.name for metric in Metrics().registry.collect()}


def base_name(sample: str) -> str:
    return SUFFIXES.sub("", sample).removesuffix("_total")


def used_metrics(text: str) -> set[str]:
    return set(re.findall(r"\b(?:bosal|process)_[a-z_]+\b", text))


# On the page, not on the dashboard: their sums are there, or who looks for them looks for one
# recipe, request or moment.
OFF_BOARD = {
    "bosal_config_last_reload_success_timestamp_seconds",
    "bosal_config_reloads",
    "bosal_divergence_nats",
    "bosal_interventions",
    "bosal_model_info",
    "bosal_request_seconds",
    "bosal_rule_activations",
    "bosal_rule_flips",
    "bosal_stream_forwards",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}


@pytest.mark.parametrize("file", ["alerts.yml", "alerts.test.yml", "grafana.json"])
def test_every_metric_that_is_asked_for_exists(file: str) -> None:
    used = used_metrics((DEPLOY / file).read_text())
    assert len(used) >= 5
    names = exported()
    assert {base_name(name) for name in used} <= names


def test_every_metric_is_on_the_dashboard_or_left_out_on_purpose() -> None:
    shown = {base_name(name) for name in used_metrics((DEPLOY / "grafana.json").read_text())}
    assert shown | OFF_BOARD == exported()
    assert shown & OFF_BOARD == set()


def test_every_label_of_the_dashboard_is_one_of_its_metric() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `((?:bosal|process)_[a-z_]+)` \| \w+ \|([^|]*)\|", page, re.MULTILINE)
    labels = {base_name(name): set(re.findall(r"\w+", stated)) for name, stated in rows}
    board = json.loads((DEPLOY / "grafana.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            grouped = re.findall(r"by \(([^)]*)\)", expression)
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            asked = shown.union(*(re.findall(r"\w+", one) for one in grouped)) - {"le", "instance"}
            for name in used_metrics(expression):
                assert asked <= labels[base_name(name)], (panel["title"], asked)


def test_the_page_of_metrics_is_the_live_endpoint(server: LiveServer, client: Client) -> None:
    client.generate("Hi", max_tokens=2)
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `((?:bosal|process)_[a-z_]+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    documented = {base_name(name): (kind, labels) for name, kind, labels in rows}
    live = {metric.name: metric for metric in Metrics().registry.collect()}
    assert set(documented) == set(live)
    for name, metric in live.items():
        assert documented[name][0] == metric.type, name
    for (sample, labels), _ in server.metrics().items():
        name = base_name(sample)
        stated = set(filter(None, (one.strip() for one in documented[name][1].split(","))))
        assert {label for label, _ in labels} - {"le"} == stated, sample


def test_promtool_believes_the_rules_and_their_tests() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    for arguments in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")):
        ended = subprocess.run(
            [promtool, *arguments], cwd=DEPLOY, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_believes_the_metrics_of_a_live_server(server: LiveServer) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    from urllib.request import urlopen

    with urlopen(server.metrics_url) as response:
        text = response.read()
    ended = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_has_a_test() -> None:
    rules: Any = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    tests: Any = yaml.safe_load((DEPLOY / "alerts.test.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    for wants_fire in (True, False):
        tested = {
            case["alertname"]
            for test in tests["tests"]
            for case in test["alert_rule_test"]
            if bool(case["exp_alerts"]) == wants_fire
        }
        assert tested == alerts


@pytest.mark.parametrize("file", ["kubernetes.yaml", "compose.yaml", "Dockerfile", "bosal.service"])
def test_every_variable_is_a_setting(file: str) -> None:
    text = (DEPLOY / file).read_text()
    if file.endswith(".yaml"):
        assert all(yaml.safe_load_all(text))
    lines = [line for line in text.splitlines() if not line.strip().startswith("#")]
    used = set(re.findall(r"\bBOSAL_[A-Z_]+\b", "\n".join(lines)))
    assert used
    assert used <= {one.variable for one in SETTINGS}


def test_the_image_holds_what_several_servers_and_traces_need() -> None:
    (extras,) = re.findall(r"'\.\[([a-z,]+)\]'", (DEPLOY / "Dockerfile").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"postgres", "otel"} <= set(extras.split(","))
    for extra in extras.split(","):
        assert "bosal[server]" in project["optional-dependencies"][extra]


def test_systemd_believes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    # All but where the server is installed.
    unit = tmp_path / "bosal.service"
    text = (DEPLOY / "bosal.service").read_text()
    unit.write_text(text.replace("/opt/bosal/bin/bosal", "/bin/true"))
    ended = subprocess.run(
        [analyze, "verify", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert str(unit.name) not in ended.stderr, ended.stderr


def test_the_dashboard_is_a_dashboard() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) >= 10
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len(ids)
    assert all(panel["targets"] for panel in board["panels"])
