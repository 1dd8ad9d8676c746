"""Experiments from Python and from the command line, against a live server."""

import asyncio
import csv
import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from pyarrow import parquet
from rich.console import Console
from tests.live_server import LiveServer, eventually
from typer.testing import CliRunner

from bosal_client import AsyncClient, Client, InvalidRequest, NotFound
from bosal_client.cli import application
from bosal_client.document_file import read_document
from bosal_client.experiment_documents import experiment_message
from bosal_client.experiment_effects import DivergenceReport, PairedEffect, ShadowReport
from bosal_client.experiment_page import page
from bosal_client.experiment_results import Report
from bosal_client.experiment_view import view
from bosal_client.experiments import Outcome
from bosal_client.invocation import signed_experiments
from bosal_decoding.document import read_yaml as recipes_read_yaml
from bosal_decoding.errors import InvalidRecipe


def document(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "variants": [
            {"key": "control", "recipe": "plain", "weight": 0.5, "control": True},
            {"key": "ruled", "recipe": "rules", "weight": 0.5},
        ],
        "metrics": [
            {"name": "liked", "kind": "proportion", "direction": "increase", "role": "primary"},
            {"name": "total_ms", "kind": "quantile", "level": 0.5, "direction": "decrease",
             "role": "secondary"},
        ],
        "planned_units": 200,
    }  # fmt: skip


def bosal(server: LiveServer, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(
        application(),
        ["experiments", *arguments],
        env={"BOSAL_SERVER": server.address, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert done.exit_code == code, done.output
    return done.output


def test_an_experiment_is_led_from_the_command_line(
    server: LiveServer, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "exp.yaml"
    file.write_text(json.dumps(document("cli")))
    assert "draft" in bosal(server, "create", str(file))
    assert "already" in bosal(server, "create", str(file), code=2)
    assert "running" in bosal(server, "start", "cli", "--reason", "why not")
    for index in range(6):
        answer = client.generate(
            "Name a river.", experiment="cli", unit=f"cli{index}", max_tokens=3
        )
        assigned = answer.started.assignment
        assert assigned is not None
        assert assigned.reason == "assigned"
        outcome = Outcome(name="liked", value=True, exposure_id=assigned.exposure_id)
        (result,) = client.experiments.record("cli", [outcome])
        assert result.status == "recorded"
    html_file = tmp_path / "page.html"
    said = bosal(server, "report", "cli", "--html", str(html_file))
    assert "too few units" in said
    text = html_file.read_text()
    assert "too few units" in text
    assert "<svg" in text  # the latencies
    assert "http" not in text
    exposures, outcomes = tmp_path / "e.csv", tmp_path / "o.parquet"
    said = bosal(
        server, "export", "cli", "--out", str(exposures), "--outcomes", str(outcomes),
        "--pairs", str(tmp_path / "p.csv"),
    )  # fmt: skip
    assert said.strip() == "6 exposures, 6 outcomes, 0 pairs"
    with exposures.open() as opened:
        rows = list(csv.DictReader(opened))
    assert {row["outcome.output_tokens"] for row in rows} == {"3.0"}
    assert parquet.read_table(outcomes).to_pydict()["value"] == [1.0] * 6
    assert "deleted 1 exposures and 1 outcomes" in bosal(server, "forget", "cli1")
    assert "for 0.5 of the units" in bosal(server, "traffic", "cli", "0.5")
    assert "has changed" in bosal(server, "pause", "cli", "--etag", "0", code=2)
    assert "promoted" in bosal(server, "promote", "cli", "ruled")
    assert "promoted" in bosal(server, "watch", "cli")
    audit = bosal(server, "audit", "cli")
    assert "PROMOTE" in audit.splitlines()[0]
    assert '{"coverage": 0.5}' in audit
    assert "cli\tpromoted" in bosal(server, "list")


def test_a_page_has_every_part_and_no_markup_of_others(client: Client) -> None:
    experiments = client.experiments
    experiments.create({**document("page"), "description": "<script>alert(1)</script>"})
    experiments.start("page")
    for index in range(4):
        client.generate("Name a river.", experiment="page", unit=f"u{index}", max_tokens=2)
    found = experiments.report("page", with_distributions=True)
    text = page(found)
    assert "<script>" not in text
    for part in ("Shares", "liked", "Total time, ms", "Variants"):
        assert part in text


def test_pages_and_tables_show_doses_shadows_and_divergences(
    server: LiveServer, client: Client, tmp_path: Path
) -> None:
    cold = {"rules": [{"rule": "temperature", "value": 0.3}]}
    experiments = client.experiments
    experiments.create(
        {
            **document("held"),
            "variants": [
                {"key": "control", "recipe": "plain", "weight": 0.5, "control": True},
                {"key": "cold", "recipe": cold, "weight": 0.5},
            ],
            "shadows": [{"key": "unlit", "recipe": cold}],
            "shadow_share": 1.0,
            "compare_draws": True,
        }
    )
    experiments.start("held")
    for index in range(6):
        client.generate("Name a river.", experiment="held", unit=f"u{index}", max_tokens=3)

    def is_whole() -> bool:
        report = experiments.report("held")
        return report.shadows[0].pairs > 0 and sum(one.requests for one in report.doses) == 6

    assert eventually(is_whole)
    found = experiments.report("held", with_distributions=True)
    assert [one.variant for one in found.divergences] == ["cold", "unlit"]
    assert found.doses[0].requests == 6
    text = page(found)
    for part in ("Dose: what variants touch", "Where cold parts", "Shadow unlit"):
        assert part in text
    assert f"too few units: {min_touched(found)} of {found.experiment.min_units}" in text
    said = bosal(server, "report", "held")
    assert "cold touches" in said
    assert "unlit" in said
    enough = found.experiment.min_units
    for one in found.shadows[0].effects:
        assert f"too few units: {one.units} of {enough}" in text
    # More may have been run again meanwhile.
    assert re.search(rf"unlit .*too few units: \d+ of {enough}", said)
    for example in (one for held in found.divergences for one in held.examples[:3]):
        assert f"token {example.position}: " in said
    file = tmp_path / "p.csv"
    bosal(server, "export", "held", "--out", str(tmp_path / "e.csv"), "--pairs", str(file))
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert {row["variant"] for row in rows} == {"cold", "unlit"}
    for row in rows:
        assert (row["position"] == "") is (row["cause"] == "")


def min_touched(report: Report) -> int:
    return min(report.doses[0].control_units, report.doses[0].units)


def test_a_divergence_is_told_in_words(client: Client) -> None:
    client.experiments.create(document("words"))
    parted = DivergenceReport(
        variant="ruled",
        is_shadow=False,
        requests=40,
        equal=5,
        unknown=2,
        causes={"RULE": 31, "PROMPT": 4},
        rules={"eos_ramp": 30, "top_p": 1},
        mean_position=3.25,
        examples=(),
    )
    same = replace(parted, equal=40, unknown=0, causes={}, rules={}, mean_position=None)
    effect = PairedEffect(
        outcome="output_tokens", units=40, control=3.0, variant=2.0, difference=-1.0, low=None,
        high=None, p_value=1.0, saving=None, method="",
    )  # fmt: skip
    shadow = ShadowReport(variant="unlit", pairs=40, given_up=0, effects=(effect,))
    report = replace(
        client.experiments.report("words"), divergences=(parted, same), shadows=(shadow,)
    )
    said = StringIO()
    Console(file=said, width=400).print(view(report))
    lines = [line.rstrip() for line in said.getvalue().splitlines()]
    assert (
        "ruled: 5 of 40 requests have the control's text; 35 part from it, after 3.2 tokens on "
        "average: 31 for a rule, 4 for another prompt; a rule alone decides it: eos_ramp in 30, "
        "top_p in 1; 2 could not be held against it"
    ) in lines
    assert "ruled: 40 of 40 requests have the control's text" in lines
    enough = report.experiment.min_units
    assert effect.open_because(enough) == f"too few units: 40 of {enough}"
    assert effect.open_because(40) == "the same in every pair"
    assert replace(effect, low=-1.0, high=1.0).open_because(41) == ""


def test_a_plan_says_how_many_units_an_effect_needs(server: LiveServer, client: Client) -> None:
    plan = client.experiments.plan(effect=0.05, rate=0.3)
    fixed = client.experiments.plan(effect=0.05, rate=0.3, method="fixed")
    assert fixed.method == "fixed"
    # statsmodels' samplesize_proportions_2indep_onetail(0.05, 0.3, 0.8, alpha=0.025): 1376 an arm.
    assert fixed.units / 2 == pytest.approx(1376, rel=0.01)
    assert plan.units > fixed.units
    said = bosal(server, "plan", "--effect", "0.05", "--rate", "0.3")
    assert said.startswith(f"{plan.units} units, half in each of two variants")
    wrong: list[dict[str, Any]] = [
        {}, {"deviation": 0.0}, {"rate": 2.0}, {"rate": 0.3, "deviation": 1.0}
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(InvalidRequest):
            client.experiments.plan(effect=0.05, **arguments)
    with pytest.raises(InvalidRequest):
        client.experiments.plan(effect=0.0, rate=0.3)
    assert "sequential or fixed" in bosal(
        server, "plan", "--effect", "1", "--method", "bayes", code=2
    )


def test_experiments_are_led_without_blocking(server: LiveServer) -> None:
    async def check() -> None:
        async with AsyncClient(server.address) as client:
            experiments = client.experiments
            await experiments.create(document("async"))
            assert (await experiments.start("async")).state == "running"
            answer = await client.generate(
                "Name a river.", experiment="async", unit="u", max_tokens=2
            )
            assert answer.started.assignment is not None
            exposure = answer.started.assignment.exposure_id
            outcome = Outcome(name="liked", value=True, exposure_id=exposure)
            (result,) = await experiments.record("async", [outcome])
            assert result.status == "recorded"
            async for report in experiments.watch("async", interval=0.2):
                assert sum(arm.units for arm in report.arms) == 1
                break
            assert "async" in {one.name for one in await experiments.every()}
            pages = [page async for page in experiments.export("async")]
            assert sum(len(page.exposures) for page in pages) == 1
            assert (await experiments.stop("async")).state == "stopped"
            actions = [event.action async for event in experiments.audit("async")]
            assert actions == ["STOP", "START", "CREATE"]
            with pytest.raises(NotFound):
                await experiments.get("asink")

    asyncio.run(check())


def test_what_was_read_before_is_an_etag(client: Client) -> None:
    experiments = client.experiments
    made = experiments.create(document("etag"))
    assert experiments.start("etag", etag=made.etag).state == "running"
    with pytest.raises(InvalidRequest) as failure:
        experiments.stop("etag", etag=made.etag)
    assert failure.value.reason == "STALE_ETAG"


def test_weights_are_those_of_the_phase(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "phases.yaml"
    file.write_text(json.dumps(document("phases")))
    assert "ruled rules@" in bosal(server, "create", str(file))
    bosal(server, "start", "phases")
    changed = bosal(server, "phase", "phases", "control=0.2", "ruled=0.8")
    assert re.search(r"control plain@\w+ 20%, ruled rules@\w+ 80%", changed)
    listed = next(x for x in bosal(server, "list").splitlines() if x.startswith("phases\t"))
    assert listed.endswith("80%")
    file = tmp_path / "phases.html"
    bosal(server, "report", "phases", f"--html={file}")
    assert "<td>80.00%</td><td></td></tr>" in file.read_text()
    before = tmp_path / "before.html"
    bosal(server, "report", "phases", "--phase=1", f"--html={before}")
    assert "80.00%" not in before.read_text()
    wrong = bosal(server, "phase", "phases", "control=nan", "ruled=0.8", code=2)
    assert "weights.control" in wrong


def test_files_that_cannot_be_read_or_written_are_refused_by_flag(
    server: LiveServer, tmp_path: Path
) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: \xff")
    assert "not UTF-8" in bosal(server, "create", str(latin), code=2)
    twice = {"yaml": "alpha: 0.1\nvariants: [{key: a, key: b}]", "json": '{"alpha": 1, "alpha": 2}'}
    for suffix, text in twice.items():
        file = tmp_path / f"twice.{suffix}"
        file.write_text(text)
        assert "is given twice" in bosal(server, "create", str(file), code=2)
    file = tmp_path / "files.yaml"
    file.write_text(json.dumps(document("files")))
    bosal(server, "create", str(file))
    assert "--html" in bosal(server, "report", "files", f"--html={tmp_path}/no/x.html", code=2)
    for suffix in ("csv", "parquet"):
        refused = bosal(server, "export", "files", f"--out={tmp_path}/no/x.{suffix}", code=2)
        assert "--out" in refused


def test_an_export_of_nothing_has_its_columns(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text(json.dumps(document("empty")))
    bosal(server, "create", str(file))
    names = ("--out=e.csv", "--outcomes=o.csv", "--pairs=p.csv")
    bosal(server, "export", "empty", *(one.replace("=", f"={tmp_path}/") for one in names))
    for name, column in (("e", "variant"), ("o", "value"), ("p", "is_shadow")):
        assert column in (tmp_path / f"{name}.csv").read_text().strip().split(",")


def test_a_user_without_a_name_signs_with_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with signed_experiments("127.0.0.1:1") as experiments:
        assert experiments.actor == "uid 12345"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"variant": []}, "variant"),
        ({"variants": {}}, "variants"),
        ({"variants": [{"key": "a", "wieght": 1}]}, "variants[0].wieght"),
        ({"variants": [{"key": "a", "weight": 50}]}, "variants[0].weight"),
        ({"metrics": [{"name": "m", "kind": "average"}]}, "metrics[0].kind"),
        ({"metrics": [{"name": "m", "level": "x"}]}, "metrics[0].level"),
        ({"variants": [{"key": "a", "control": "no"}]}, "variants[0].control"),
        ({"coverage": "all"}, "coverage"),
        ({"coverage": float("nan")}, "coverage"),
        ({"retention_days": "long"}, "retention_days"),
        ({"namespace": 3}, "namespace"),
        ({"method": "bayes"}, "method"),
        ({"planned_units": -4}, "planned_units"),
        ({"planned_units": "5_000"}, "planned_units"),
        ({"planned_units": 0.5}, "planned_units"),
        ({"alpha": True}, "alpha"),
        ({"name": 2026}, "name"),
        ({"compare_draws": 1}, "compare_draws"),
        ({"retention_days": float("inf")}, "retention_days"),
        ({"variants": [{"key": 1}]}, "variants[0].key"),
        ({"variants": [{"key": "a", "recipe": None}]}, "variants[0].recipe"),
    ],
)
def test_a_wrong_document_names_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as failure:
        experiment_message({**document("wrong"), **change})
    assert failure.value.field == field
    # In words of the document, not of what reads it.
    assert not re.search("built-in|object cannot|argument", str(failure.value))


def test_a_whole_number_may_be_written_as_any_number() -> None:
    assert experiment_message({**document("big"), "planned_units": 1e4}).planned_units == 10_000


def test_a_unit_without_an_experiment_is_a_mistake(client: Client) -> None:
    with pytest.raises(TypeError, match="need an 'experiment'"):
        client.generate("x", unit="u")


@pytest.mark.parametrize(
    "text",
    [
        "no", "on", "Off", "y", "YES", "true", "False", "null", "~", "''", "1_000", "0x1f", "0o17",
        "017", "12:30", "1:30:00", "2024-05-06", "1e5", "1.5e-3", ".5", "-3", "+.inf", ".nan",
        "a b", "=", "<<", "0.5", "5.", "'no'", '"12:30"', "[no, 1_0, 1]", "{on: off}",
    ],
)  # fmt: skip
def test_experiments_and_recipes_are_read_by_the_same_rules(tmp_path: Path, text: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(f"key: {text}\n{text}: value\n" if "{" not in text else f"key: {text}\n")
    try:
        wanted = recipes_read_yaml(file.read_text())
    except InvalidRecipe:
        with pytest.raises(typer.BadParameter):
            read_document(file)
        return
    # As text, so that what is not a number equals itself.
    assert repr(read_document(file)) == repr(wanted)


@pytest.mark.parametrize(
    "text", ["a: &x 1\nb: *x", "a: !!str 1", "a: 1\na: 2", "? [a]\n: 1", "a: ["]
)
def test_what_recipes_refuse_experiments_refuse(tmp_path: Path, text: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    with pytest.raises(InvalidRecipe):
        recipes_read_yaml(text)
    with pytest.raises(typer.BadParameter):
        read_document(file)
