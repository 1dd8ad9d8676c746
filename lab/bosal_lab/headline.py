"""The headline table: does a base model under rules do what its tuned twin does?"""

import asyncio
import json
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bosal_client import Client
from bosal_client.identity import Identity
from bosal_lab.compare import compare
from bosal_lab.evaluate import Settings
from bosal_lab.evaluation_errors import ArmError
from bosal_lab.evaluation_run import Request, run_evaluation
from bosal_lab.forms import FORMED
from bosal_lab.item import Suite
from bosal_lab.local_server import serving
from bosal_lab.ranks import store_plain_ranks
from bosal_lab.results import Results
from bosal_lab.summary import Floor, Summary, floor_rows, summaries
from bosal_server.statistics.intervals import Interval

__all__ = [
    "COUPLED",
    "MODELS",
    "PARTS",
    "TWIN",
    "chosen_rows",
    "dump",
    "headline",
    "headline_rows",
    "measure",
    "models_of",
    "write_table",
]

Rows = tuple[tuple[str, str | Mapping[str, Any]], ...]  # model, recipe by name or as a document

BASE, TUNED = "base", "tuned"
# Recipes over several streams, and all models that a row needs.
COUPLED = ("guided", "contrastive", "proxy", "nudged")
MODELS = (BASE, TUNED, "amateur", "base-small", "tuned-small")
# Recipe `rules` consists of these and of what the comparison does not touch.
PARTS = ("eos_ramp", "token_weights", "used_token_weight")
# What every row is held against: the aligned model, asked as it was tuned to be and decoded
# greedily, which suits it best.
TWIN = f"{TUNED}/plain-greedy"
_CONTROL = f"{BASE}/plain"
_BEGIN, _END = "<!-- headline: begin -->", "<!-- headline: end -->"


def headline_rows(
    documents: Mapping[str, Mapping[str, Any]],
) -> Rows:
    """Return the table's models and recipes, from the documents of the server's recipes."""
    rules = documents["rules"]
    without = []
    for part in PARTS:
        kept = [rule for rule in rules["rules"] if rule["rule"] != part]
        if len(kept) == len(rules["rules"]):
            raise ArmError(f"recipe rules has no {part} to leave out")
        without.append({**rules, "name": f"rules-without-{part}", "rules": kept})
    plain = documents["plain"]
    greedy = {
        **plain,
        "name": "plain-greedy",
        "rules": [*plain.get("rules", ()), {"rule": "temperature", "value": 0}],
    }
    return (
        (BASE, "plain"),
        (BASE, "rules"),
        *((BASE, document) for document in without),
        (BASE, "in-context"),
        (BASE, "steered"),
        (BASE, {**documents["steered"], "name": f"steered{FORMED}"}),
        *((BASE, recipe) for recipe in COUPLED),
        (TUNED, "plain"),
        (TUNED, greedy),
        (TUNED, {**greedy, "name": f"plain-greedy{FORMED}"}),
        (TUNED, "steered"),
    )


def chosen_rows(rows: Rows, only: Collection[str]) -> Rows:
    """Return the rows of these names (`model/recipe`), or all if there are none.

    Raises:
        ArmError: no row has such a name.
    """
    named = {
        f"{model}/{recipe if isinstance(recipe, str) else recipe['name']}": (model, recipe)
        for model, recipe in rows
    }
    for name in only:
        if name not in named:
            raise ArmError.unknown("row", name, named)
    return tuple(row for name, row in named.items() if not only or name in only)


def models_of(only: Collection[str]) -> tuple[str, ...]:
    """Return the models that have to be served for the rows of these names, or for all."""
    is_coupled = any(name.partition("/")[2] in COUPLED for name in only)
    return MODELS if is_coupled or not only else (BASE, TUNED)


def measure(
    suite: Suite,
    file: Path,
    *,
    server: str,
    models: Mapping[str, Path],
    settings: Settings,
    seed: int,
    command: str,
    only: Collection[str] = (),
) -> None:
    """Answer what is missing, on `server` or, if that is empty, on one of our own.

    `only` names rows as `model/recipe`; empty: every row. Tokens are ranked under the plain base
    if its folder is among `models`.
    """
    with ExitStack() as stack:
        # A server of our own asks nobody who he is.
        identity = Identity.from_environment(os.environ) if server else Identity()
        address = server or stack.enter_context(serving(models)).address
        with Client(address, **identity.options()) as client:
            documents = {recipe.name: recipe.document for recipe in client.recipes()}
        rows = chosen_rows(headline_rows(documents), only)
        request = Request(arms=rows, seed=seed, settings=settings)
        asyncio.run(run_evaluation(address, file, suite, request, command, identity))
        if BASE in models:
            with Client(address, **identity.options()) as client, Results.open(file) as results:
                store_plain_ranks(results, client, BASE, models[BASE])


def headline(results: Results, commands: Iterable[str]) -> dict[str, Any]:
    """Return the table of the test split as one document, with the commands that made it."""
    rows = summaries(results, split="test")
    twin = next((one.value.value for one in rows if one.arm.name == TWIN), None)
    others = [one.arm.name for one in rows if one.arm.name != _CONTROL]
    has_control = len(others) < len(rows)
    compared = compare(results, _CONTROL, others, split="test") if has_control else []
    suite, version = results.suite
    return {
        "commands": list(commands),
        "suite": {"name": suite, "version": version, "split": "test"},
        "server": results.runs[-1].get("versions", {}),
        "models": {one.arm.model: one.arm.model_digest for one in rows},
        "rows": [_row(one, twin) for one in rows],
        "floors": [_floor(one) for one in floor_rows(results, "test")],
        "against_plain": [
            {
                "arm": one.second,
                "difference": _rounded(one.whole.difference),
                "p_holm": one.whole.adjusted_p,
                "method": one.whole.method,
                "only_plain": one.whole.mcnemar.only_first if one.whole.mcnemar else None,
                "only_arm": one.whole.mcnemar.only_second if one.whole.mcnemar else None,
            }
            for one in compared
        ],
    }


def _row(one: Summary, twin: float | None) -> dict[str, Any]:
    return {
        "model": one.arm.model,
        "recipe": one.arm.recipe,
        "recipe_version": one.arm.recipe_version,
        "items": one.items,
        "errors": one.errors,
        "success": _rounded(one.value),
        "of_twin": round(one.value.value / twin, 4) if twin else None,
        "stop_rate": _rounded(one.stopped),
        "mean_tokens": None if one.tokens is None else round(one.tokens, 2),
        "categories": {name: _rounded(value) for name, value in one.categories.items()},
        "token_shift": None if one.plain_shift is None else asdict(one.plain_shift),
        "token_shift_own_prompt": None if one.shift is None else asdict(one.shift),
    }


def _floor(one: Floor) -> dict[str, Any]:
    return {
        "name": one.name,
        "success": _rounded(one.value),
        "categories": {name: _rounded(value) for name, value in one.categories.items()},
    }


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(interval).items()}


def write_table(document: Mapping[str, Any], page: Path) -> None:
    """Put the table between the two marks of a Markdown page."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ArmError(f"{page} lacks the lines {_BEGIN} and {_END}")
    table = "\n".join(_lines(document))
    page.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}", encoding="utf-8")


def _lines(document: Mapping[str, Any]) -> list[str]:
    rows = document["rows"]
    lines = [
        "| model | recipe | success, % | of the twin | stopped, % | tokens | rank 1, % "
        "| rank 2-3, % | above 3, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shift = row["token_shift"] or {}
        shares = [_percent(shift.get(name)) for name in ("unshifted", "marginal", "shifted")]
        cells = [
            row["model"],
            f"`{row['recipe']}`",
            _interval(row["success"]),
            "-" if row["of_twin"] is None else f"{row['of_twin']:.2f}",
            _percent(row["stop_rate"]["value"]),
            "-" if row["mean_tokens"] is None else f"{row['mean_tokens']:.1f}",
            *shares,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"| floor | {one['name']} | {_interval(one['success'])} | | | | | | |"
        for one in document["floors"]
    ]
    names = list(dict.fromkeys(name for row in rows for name in row["categories"]))
    heads = [f"{row['model']} `{row['recipe']}`" for row in rows]
    lines += [
        "",
        f"| success by category, % | {' | '.join(heads)} |",
        "|---" * (1 + len(rows)) + "|",
    ]
    for name in names:
        cells = [_interval(row["categories"].get(name)) for row in rows]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _interval(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value['value']:.0f} [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def dump(document: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
