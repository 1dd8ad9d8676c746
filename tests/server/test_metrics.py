"""Metrics: every series of the documentation, labels bound once, figures that add up."""

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from bosal_decoding.explanation import ExplanationSummary, Shift
from bosal_server.configuration_metrics import Source
from bosal_server.engine.observer import BlockStats, EngineStats, StepReport
from bosal_server.metrics import Metrics
from bosal_server.security.certificates import Certificate
from bosal_server.store_metrics import StoreCounts

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"\| `((?:bosal|process)_\w+)` \| (\w+) \| ([\w, ]*)\|", re.MULTILINE)


SUMMARY = ExplanationSummary(
    shifts=Counter({Shift.UNSHIFTED: 3, Shift.SHIFTED: 1}),
    num_changed=2,
    total_divergence=0.8,
    activations=Counter({"eos_ramp": 3}),
    flips=Counter({"eos_ramp": 1}),
)
REPORT = StepReport(
    model="m",
    forward_s=0.5,
    control_s=0.25,
    rest_s=0.125,
    rows=3,
    prefill_tokens=0,
    decode_rows=3,
    running=3,
    waiting=0,
    blocks_used=3,
    blocks_total=9,
    rule_s={("steered", "eos_ramp"): 0.25},
    fill_s=0.0625,
)


def stats(running: int) -> EngineStats:
    return EngineStats(
        running=running,
        waiting=2,
        waiting_requests=1,
        num_steps=5,
        blocks={"m": BlockStats(used=running, free=1, findable=0, total=9)},
    )


def exported() -> set[tuple[str, str, frozenset[str]]]:
    """Every metric with its type and labels, once each has a child."""
    metrics = Metrics()
    bound = metrics.bind("m", "plain")
    bound.explanations.observe(SUMMARY)
    bound.count_forwards("base", 3)
    bound.count_ended("MAX_TOKENS")
    bound.count_interventions(2)
    metrics.step(REPORT)
    metrics.prefix("m", 1, 1)
    metrics.count_error("Generate", "INTERNAL")
    metrics.count_refusal("QUEUE_FULL")
    metrics.count_refused_call("KEY_MISSING")
    metrics.configuration.note_loaded(Source.KEYS)
    moment = datetime(2026, 12, 1, tzinfo=UTC)
    ending = Certificate(file=Path("x"), begins=moment, ends=moment)
    metrics.configuration.watch_certificates(lambda: {"server": ending})
    metrics.describe("m", runner="torch", dtype="float32", device="cpu", is_fallback=False)
    metrics.watch(lambda: stats(1), ["m"])
    metrics.watch_store(lambda: StoreCounts(1, 0, 0, {"exp": True}))
    found = set()
    for family in metrics.registry.collect():
        assert family.samples, family.name
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found.add((name, family.type, frozenset(labels)))
    return found


def test_the_documentation_lists_exactly_what_is_exported() -> None:
    documented = {
        (name, kind, frozenset(label.strip() for label in labels.split(",") if label.strip()))
        for name, kind, labels in ROW.findall(DOCUMENT.read_text("utf-8"))
    }
    assert documented == exported()


def test_children_are_bound_once() -> None:
    metrics = Metrics()
    assert metrics.bind("m", "plain") is metrics.bind("m", "plain")
    assert metrics.bind("m", "plain") is not metrics.bind("m", "plain", "b")


def test_recipes_without_end_become_one_label() -> None:
    metrics = Metrics()
    children = {id(metrics.bind("m", f"created-{number}")) for number in range(1010)}
    assert len(children) == 1001
    assert metrics.bind("m", "created-1009") is metrics.bind("m", "other")


def test_two_servers_do_not_share_a_registry() -> None:
    first, second = Metrics(), Metrics()
    first.count_error("Generate", "INTERNAL")
    labels = {"method": "Generate", "code": "INTERNAL"}
    assert first.registry.get_sample_value("bosal_errors_total", labels) == 1
    assert second.registry.get_sample_value("bosal_errors_total", labels) is None


def test_a_step_is_split_into_its_parts() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.step(REPORT)
    for part, seconds in (("forward", 0.5), ("control", 0.25), ("rest", 0.125)):
        labels = {"model": "m", "part": part}
        assert metrics.registry.get_sample_value("bosal_step_seconds_sum", labels) == seconds
    assert metrics.registry.get_sample_value("bosal_batch_rows_sum", {"model": "m"}) == 3
    fill = "bosal_constraint_fill_seconds_sum"
    assert metrics.registry.get_sample_value(fill, {"model": "m"}) == 0.0625


def test_gauges_are_read_when_scraped() -> None:
    metrics = Metrics()
    running = [4]
    metrics.watch(lambda: stats(running[0]), ["m"])
    assert metrics.registry.get_sample_value("bosal_running_groups") == 4
    assert metrics.registry.get_sample_value("bosal_waiting_groups") == 2
    running[0] = 0
    assert metrics.registry.get_sample_value("bosal_running_groups") == 0
    assert metrics.registry.get_sample_value("bosal_kv_blocks_used", {"model": "m"}) == 0
    assert metrics.registry.get_sample_value("bosal_kv_blocks", {"model": "m"}) == 9


def test_inter_token_edges_begin_at_two_milliseconds() -> None:
    metrics = Metrics()
    metrics.bind("m", "plain")
    edges = {
        float(sample.labels["le"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "bosal_inter_token_latency_seconds_bucket"
    }
    assert min(edges) == 0.002
    assert sum(edge < 0.05 for edge in edges) >= 9


def test_explained_choices_are_counted_by_recipe_and_rule() -> None:
    metrics = Metrics()
    for _ in range(2):
        metrics.bind("m", "steered").explanations.observe(SUMMARY)
    metrics.bind("m", "plain").explanations.observe(ExplanationSummary())

    def value(name: str, **labels: str) -> float | None:
        labels = {"model": "m", "recipe": "steered", "variant": ""} | labels
        return metrics.registry.get_sample_value(f"bosal_{name}", labels)

    assert value("explained_tokens_total", shift="unshifted") == 6
    assert value("explained_tokens_total", shift="shifted") == 2
    assert value("changed_tokens_total") == 4
    assert value("rule_activations_total", rule="eos_ramp") == 6
    assert value("rule_flips_total", rule="eos_ramp") == 2
    assert value("divergence_nats_count") == 2
    assert value("divergence_nats_sum") == 0.4
    # A choice without tokens has no mean.
    assert value("divergence_nats_count", recipe="plain") == 0
