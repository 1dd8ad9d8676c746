"""`bosal demo-ab`: an experiment on a server of its own with simulated users, watched live."""

import asyncio
import random
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bosal_client import AsyncClient, BosalError, Client
from bosal_client.document_file import writing
from bosal_client.experiment_page import page
from bosal_client.experiment_view import view
from bosal_client.experiments import Outcome
from bosal_server.demo import DemoFailed, serving

__all__ = ["run"]

NAME = "brevity"
_USERS_AT_ONCE = 16
_WATCH_EVERY = 40

# Of the dev split: about the world the embedded model was trained on.
_QUESTIONS = (
    "Which was settled first, Skirnmar or Maldmouth?",
    "What are the goods of Zimmar?",
    "Return JSON for Preinhaven with the fields name, region and goods.",
    "What are the ingredients of stusaund stew? Use bullets.",
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
    "planned_units": 300,
}  # fmt: skip


def run(*, users: int, html_file: Path | None, seed: int) -> int:
    """Show the demo; return the process's exit code."""
    console = Console(highlight=False)
    try:
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
    done = 0

    async def one(connected: AsyncClient, number: int) -> None:
        nonlocal done
        async with gate:
            await _ask(connected, client, number, seed)
        done += 1

    async with AsyncClient(address) as connected:
        crowd = asyncio.gather(*(one(connected, number) for number in range(users)))
        with Live(console=console, auto_refresh=False) as live:
            shown = -_WATCH_EVERY
            while not crowd.done():
                await asyncio.sleep(0.2)
                if console.is_terminal and done >= shown + _WATCH_EVERY:
                    shown = done
                    live.update(view(await asyncio.to_thread(_report, client)), refresh=True)
            await crowd
            live.update(view(await asyncio.to_thread(_report, client)), refresh=True)


def _report(client: Client) -> Any:
    return client.experiments.report(NAME)


async def _ask(connected: AsyncClient, client: Client, number: int, seed: int) -> None:
    chance = random.Random(f"{seed} {number}")
    answer = await connected.generate(
        chance.choice(_QUESTIONS),
        experiment=NAME,
        unit=f"user-{number}",
        max_tokens=48,
        seed=number,
    )
    assert answer.started.assignment is not None
    # Simulated: who gets an answer that ends likes it more often than who gets one cut off.
    is_whole = answer.choices[0].finish_reason != "max_tokens"
    is_liked = chance.random() < (0.85 if is_whole else 0.15)
    outcome = Outcome(
        name="liked", value=is_liked, exposure_id=answer.started.assignment.exposure_id
    )
    await asyncio.to_thread(client.experiments.record, NAME, [outcome])
