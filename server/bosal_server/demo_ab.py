"""`bosal demo-ab`: an experiment on a server of its own with simulated users, watched live."""

import asyncio
import random
from collections.abc import Awaitable
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bosal_client import AsyncClient, BosalError, Client
from bosal_client.document_file import writing
from bosal_client.experiment_page import page
from bosal_client.experiment_results import Report
from bosal_client.experiment_view import view
from bosal_client.experiments import Outcome
from bosal_client.render import note
from bosal_server.demo import DemoFailed, serving
from bosal_server.experiments.assignment import PPM
from bosal_server.shadowing import is_sampled

__all__ = ["run"]

NAME = "brevity"
_USERS_AT_ONCE = 16
_WATCH_EVERY = 40
# Where there is no terminal to show the report in.
_TELL_EVERY_SECONDS = 10.0
_SHADOW_SHARE = 0.25
# For how long the report may stand still while re-runs are expected.
_PATIENCE_SECONDS = 30.0

# Of the dev split: about the world the embedded model was trained on.
_QUESTIONS = (
    "Which was settled first, Deiskhaven or Jildwick?",
    "Who made The Restless Island?",
    "Return JSON for Werner Pomeim with the fields name and birthplace.",
    "What are the goods of Drentford? Make it a bullet list.",
)

EXPERIMENT: dict[str, Any] = {
    "name": NAME,
    "description": "Do worked examples make the model stop by itself, and do users like that?",
    "unit_kind": "user",
    "variants": [
        {"key": "plain", "recipe": "plain", "weight": 0.5, "control": True},
        {"key": "steered", "recipe": "steered", "weight": 0.5},
    ],
    "metrics": [
        {"name": "liked", "kind": "proportion", "direction": "increase", "role": "primary"},
        {"name": "stopped_itself", "kind": "mean", "direction": "increase", "role": "secondary"},
        {"name": "output_tokens", "kind": "mean", "direction": "decrease", "role": "secondary"},
        {
            "name": "slow", "kind": "above", "outcome": "ttft_ms", "threshold": 5000,
            "direction": "decrease", "role": "guardrail", "margin": 0.2,
        },
    ],
    # Nobody is served it: it answers the control's requests again, when nobody waits.
    "shadows": [
        {
            "key": "ramped",
            "recipe": {
                "scaffold": {"kind": "plain"},
                "rules": [{"rule": "eos_ramp", "weight": 15, "over": 100}],
            },
        },
    ],
    "shadow_share": _SHADOW_SHARE,
    "planned_units": 300,
}  # fmt: skip


def run(*, users: int, html_file: Path | None, seed: int) -> int:
    """Show the demo; return the process's exit code."""
    console = Console(highlight=False)
    if html_file is not None:
        # Before minutes of work for it.
        with writing(html_file, "--html"), html_file.open("a"):
            pass
    try:
        note("starting a server")
        with serving([]) as address, Client(address) as client:
            experiments = client.experiments
            experiments.actor = "demo"
            experiments.create(EXPERIMENT)
            experiments.start(NAME)
            console.print(Text(f"experiment '{NAME}' runs at {address}; {users} users come", "dim"))
            asyncio.run(_watch(console, address, client, users=users, seed=seed))
            found = experiments.report(NAME, with_distributions=True)
            if html_file is not None:
                with writing(html_file, "--html"):
                    html_file.write_text(page(found), encoding="utf-8")
                console.print(Text(f"the report as a page: {html_file}", "dim"))
            primary = next(one for one in found.metrics if one.metric.role == "primary")
            if primary.effects[0].verdict == "better":
                experiments.promote(NAME, "steered", reason="users like it better")
                served = experiments.assign(NAME, "a new user")
                console.print(
                    f"promoted: whoever comes now is served '{served.variant}' ({served.reason})"
                )
            else:
                console.print("not promoted: the primary metric is not decided")
    except (BosalError, DemoFailed) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _watch(console: Console, address: str, client: Client, *, users: int, seed: int) -> None:
    """Let users come, and show the report on the way: looking is safe."""
    gate = asyncio.Semaphore(_USERS_AT_ONCE)
    done = reruns = 0

    async def one(connected: AsyncClient, number: int) -> None:
        nonlocal done, reruns
        async with gate:
            is_rerun = await _ask(connected, client, number, seed)
        # Not before the wait: others add meanwhile.
        reruns += is_rerun
        done += 1

    async with AsyncClient(address) as connected:
        crowd = asyncio.gather(*(one(connected, number) for number in range(users)))
        if not console.is_terminal:
            while not crowd.done():
                await asyncio.wait((crowd,), timeout=_TELL_EVERY_SECONDS)
                note(f"{done} of {users} users have been served")
            await crowd
            note(f"{reruns} of their requests are run again for the shadow variant")
            console.print(view(await _after_reruns(client, reruns)))
            return
        with Live(console=console, auto_refresh=False) as live:
            shown = -_WATCH_EVERY
            while not crowd.done():
                await asyncio.sleep(0.2)
                if done >= shown + _WATCH_EVERY:
                    shown = done
                    live.update(view(await _report(client)), refresh=True)
            await crowd
            live.update(view(await _report(client)), refresh=True)
            live.update(view(await _after_reruns(client, reruns)), refresh=True)


async def _after_reruns(client: Client, expected: int) -> Report:
    """Return the report when it has every re-run: they have waited for the crowd to go."""
    known, since = -1, monotonic()
    while True:
        found = await _report(client)
        before, known = known, sum(one.pairs + one.given_up for one in found.shadows)
        if known != before:
            since = monotonic()
        if known >= expected or monotonic() > since + _PATIENCE_SECONDS:
            return found
        await asyncio.sleep(0.5)


def _report(client: Client) -> Awaitable[Report]:
    return asyncio.to_thread(client.experiments.report, NAME, with_distributions=True)


async def _ask(connected: AsyncClient, client: Client, number: int, seed: int) -> bool:
    """Ask as a user, and say whether one likes it; return whether it is to be run again."""
    chance = random.Random(f"{seed} {number}")
    answer = await connected.generate(
        chance.choice(_QUESTIONS),
        experiment=NAME,
        unit=f"user-{number}",
        max_tokens=48,
        seed=number,
    )
    assignment = answer.started.assignment
    assert assignment is not None
    # Simulated: who gets an answer that ends likes it more often than who gets one cut off.
    is_whole = answer.choices[0].finish_reason != "max_tokens"
    is_liked = chance.random() < (0.85 if is_whole else 0.15)
    outcome = Outcome(name="liked", value=is_liked, exposure_id=assignment.exposure_id)
    await asyncio.to_thread(client.experiments.record, NAME, [outcome])
    exposure = bytes.fromhex(assignment.exposure_id)
    return assignment.variant == "plain" and is_sampled(exposure, round(_SHADOW_SHARE * PPM))
