"""Rules of installed packages, from the command line to the tokens and back to an error."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live_server import LiveServer, environment
from tests.plugins import WORDPLAY, install, install_module

from bosal_client import Client, InternalError, InvalidRequest
from bosal_decoding.rules.installed import installed_rules
from bosal_server.config import ServerConfig
from bosal_server.main import serve

FAULTY = """
import torch
from bosal_decoding.rules import PluginRule, RuleStage
class Faulty(PluginRule):
    name = "faulty"
    stage = RuleStage.SHAPE
    summary = formula = source = "a test"
    @classmethod
    def act(cls, rows, turns):
        return torch.full_like(rows, float("nan"))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = install(WORDPLAY, tmp_path_factory.mktemp("site"))
    return install_module(folder, "bosal_faulty", FAULTY, {"faulty": "bosal_faulty:Faulty"})


@pytest.fixture(scope="module")
def plugged(tiny_model: Path, site: Path) -> Iterator[LiveServer]:
    path = f"{site}:{environment()['PYTHONPATH']}"
    with LiveServer(f"--model=tiny={tiny_model}", PYTHONPATH=path) as live:
        yield live


@pytest.fixture(scope="module")
def plugged_client(plugged: LiveServer) -> Iterator[Client]:
    with Client(plugged.address) as client:
        yield client


def test_rules_of_packages_are_listed_with_them(plugged_client: Client) -> None:
    packages = {one.rule: one.package for one in plugged_client.rules()}
    assert packages["lipogram"] == "bosal-wordplay 1.0"
    assert packages["faulty"] == "bosal-faulty 0.1"
    assert packages["top_p"] == ""


def test_a_request_uses_one_and_says_what_code_ran(plugged_client: Client) -> None:
    rules = [{"rule": "temperature", "value": 0}, {"rule": "lipogram", "letters": "aeiou"}]
    answer = plugged_client.generate(
        "Hello", recipe={"scaffold": {"kind": "raw"}, "rules": rules}, max_tokens=20, explain=True
    )
    assert not set(answer.choices[0].text.lower()) & set("aeiou")
    assert answer.started.versions["bosal-wordplay"] == "1.0"
    acting = {effect.rule for one in answer.choices[0].explanations for effect in one.rules}
    assert "lipogram" in acting
    checked = plugged_client.validate({"rules": rules})
    assert checked.rules[1].params == {"letters": "aeiou"}


def test_a_faulty_one_fails_its_request_by_name(
    plugged: LiveServer, plugged_client: Client
) -> None:
    recipe = {"rules": [{"rule": "faulty"}]}
    with pytest.raises(InternalError, match="rule 'faulty' of bosal-faulty 0.1 failed") as failed:
        plugged_client.generate("Hello", recipe=recipe)
    assert failed.value.reason == "PLUGIN_FAULT"
    with pytest.raises(InternalError, match="rule 'faulty'"):
        plugged_client.validate(recipe)
    with pytest.raises(InvalidRequest, match="did you mean 'letters'") as wrong:
        plugged_client.generate("Hello", recipe={"rules": [{"rule": "lipogram", "letter": "e"}]})
    assert wrong.value.field == "spec.inline_recipe.rules[0].letter"
    assert plugged_client.generate("Hello", max_tokens=3).usage.output_tokens
    seconds = plugged.metric(
        "bosal_rule_seconds_total", model="tiny", recipe="inline", rule="faulty"
    )
    assert seconds > 0


def test_a_server_does_not_start_with_one_that_is_no_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    site = install_module(tmp_path, "bosal_broken", "1 / 0", {"broken": "bosal_broken:Broken"})
    monkeypatch.syspath_prepend(site)
    installed_rules.cache_clear()
    try:
        assert serve(ServerConfig(port=0, metrics_port=-1, database="temporary")) == 1
    finally:
        installed_rules.cache_clear()
    said = capfd.readouterr().err
    assert "error: rule 'broken' of bosal-broken 0.1 (bosal_broken:Broken)" in said
    assert "ZeroDivisionError" in said
    assert "Traceback" not in said
