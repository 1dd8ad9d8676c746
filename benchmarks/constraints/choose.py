"""What holding a choice to its options does to the answers: bare, or with room for a sentence."""

import re
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.harness import Report
from bosal_client import Client
from bosal_lab.item import Answer, Item
from bosal_lab.suites import load_suite


def choose(report: Report) -> None:
    """Ask the lab's questions that offer options, under each form; report the share done right.

    The embedded base model under `steered`, which draws the likeliest token; both splits.
    """
    from tests.live_server import LiveServer

    suite = load_suite("lab")
    items = [item for item in suite.items if item.category == "choose"]
    items = items[:8] if report.options.quick else items
    with LiveServer(runner=report.options.runner) as server, Client(server.address) as client:
        for name, form in FORMS.items():

            def right(item: Item, form: Form = form) -> float:
                options = {"recipe": "steered", **form(item)}
                [choice] = client.generate(item.instruction, **options).choices
                answer = Answer(text=choice.text, finish_reason=choice.finish_reason)
                return float(bool(suite.scorer.score(item, answer).success))

            with ThreadPoolExecutor(16) as threads:
                found = list(threads.map(right, items))
            report.figure(f"choose_{name}", statistics.mean(found))


Form = Callable[[Item], dict[str, Any]]


def _options(item: Item) -> list[str]:
    return sorted([*item.checks["expected"], *item.checks["wrong"]])


def _with_room(item: Item) -> dict[str, Any]:
    """Any one line that names one of the options."""
    named = "|".join(map(re.escape, _options(item)))
    return {"constraint": {"regex": rf"[^\n]{{0,80}}({named})[^\n]{{0,40}}"}}


def _as_sentence(item: Item) -> dict[str, Any]:
    """The options as the scaffold's examples answer: with a full stop, maybe behind `In`."""
    named = "|".join(map(re.escape, _options(item)))
    return {"constraint": {"regex": rf"([A-Z][a-z' ]{{0,80}} )?({named})\."}}


FORMS: dict[str, Form] = {
    "free": lambda item: {},
    "bare": lambda item: {"constraint": {"choice": _options(item)}},
    "with_room": _with_room,
    "as_sentence": _as_sentence,
}
