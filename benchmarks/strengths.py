"""How strongly rules of several streams should act: shares of the lab suite's dev split.

A row is a shipped recipe with its combining rule replaced, decoded greedily. `docs/streams.md` has
the table.
"""

import asyncio
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Report, arguments, say
from bosal_client import Client
from bosal_lab.evaluate import Settings
from bosal_lab.evaluation_run import Request, run_evaluation
from bosal_lab.local_server import serving
from bosal_lab.results import Results
from bosal_lab.suite import lab_suite
from bosal_lab.summary import summaries

Document = Mapping[str, Any]

_MODELS: Final = ("base", "amateur", "base-small", "tuned-small")
_SMALL_TWIN: Final = {"guide": "tuned-small", "guide_scaffold": {"kind": "plain"}}
_COMBINING: Final = ("guidance", "contrastive", "proxy_tuning", "nudging")


def rows(documents: Mapping[str, Document]) -> dict[str, Document]:
    """Return the recipes to ask by the names of their figures."""
    steered, plain = documents["steered"], documents["plain"]
    steer: dict[str, dict[str, Any]] = {
        **{f"guidance_{scale:g}": {"rule": "guidance", "scale": scale} for scale in (1.25, 1.5, 2)},
        **{
            f"extrapolation_{beta:g}": {
                "rule": "contrastive",
                "amateur": "amateur",
                "form": "extrapolation",
                "amateur_temperature": 1,
                "beta": beta,
            }
            for beta in (0.1, 0.2, 0.5)
        },
        "contrastive_ratio_1": {"rule": "contrastive", "amateur": "amateur"},
        **{f"blend_{below:g}": _unsure("blend", below) for below in (0.4, 0.7)},
        **{f"nudging_{below:g}": _unsure("nudging", below) for below in (0.3, 0.5)},
    }
    bare: dict[str, dict[str, Any]] = {
        **{
            f"plain_proxy_{alpha:g}": {
                "rule": "proxy_tuning",
                "expert": "tuned-small",
                "anti_expert": "base-small",
                "alpha": alpha,
            }
            for alpha in (1, 1.5)
        },
        **{f"plain_nudging_{below:g}": _unsure("nudging", below) for below in (0.4, 0.7)},
        "plain_nudging_by_itself_0.4": {
            "rule": "nudging",
            "guide_scaffold": steered["scaffold"],
            "top1_below": 0.4,
        },
    }
    return {
        "steered": _greedy(steered),
        **{name: _greedy(steered, rule) for name, rule in steer.items()},
        **{name: _greedy(plain, rule) for name, rule in bare.items()},
        "plain": _greedy(plain),
    }


def _unsure(rule: str, below: float) -> dict[str, Any]:
    """A rule of the small twin where the base's best token is less likely."""
    when = {"when": {"top1_below": below}} if rule == "blend" else {"top1_below": below}
    return {"rule": rule, **_SMALL_TWIN, **when}


def _greedy(document: Document, *combining: Mapping[str, Any]) -> Document:
    others = (*_COMBINING, "temperature")
    kept = [rule for rule in document.get("rules", ()) if rule["rule"] not in others]
    return {**document, "rules": [*combining, *kept, {"rule": "temperature", "value": 0}]}


def main(arguments_: Sequence[str] | None = None) -> int:
    """Ask every row on a server of its own, or on one that serves the embedded family."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--server", default="", help="address; default: a server of its own")
    options = parser.parse_args(arguments_)
    report = Report("strengths", options)
    suite = lab_suite()
    if options.quick:
        suite = replace(suite, items=suite.of("dev")[::30])
    with ExitStack() as stack:
        address = options.server
        if not address:
            say("starting a server")
            address = stack.enter_context(serving({name: name for name in _MODELS})).address
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with Client(address) as client:
            documents = {one.name: one.document for one in client.recipes()}
        asked = {name: {**row, "name": name} for name, row in rows(documents).items()}
        request = Request(
            arms=tuple(("base", row) for row in asked.values()),
            settings=Settings(split="dev", has_ranks=False),
        )
        command = shlex.join([sys.executable, *sys.argv])
        asyncio.run(run_evaluation(address, folder / "dev.sqlite", suite, request, command))
        with Results.open(folder / "dev.sqlite") as results:
            found = summaries(results, split="dev")
    for one in found:
        report.figure(one.arm.recipe, one.value.value)
        if one.errors or one.missing:
            say(f"{one.arm.recipe}: {one.errors} errors, {one.missing} missing")
    report.note("suite", f"{suite.name}@{suite.version}, dev, {found[0].items} items")
    report.note("model", found[0].arm.model_digest)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
