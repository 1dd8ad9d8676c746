"""`bosal demo`: a server of its own, the same instructions without and with rules, side by side."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bosal_client import AsyncClient, BosalError, Generation
from bosal_client.render import note

# Of the dev split: about the world the embedded model was trained on, never asked about there.
_EMBEDDED_INSTRUCTIONS = (
    "Which was settled first, Deiskhaven or Jildwick?",
    "Return JSON for Werner Pomeim with the fields name and birthplace.",
    "What are the goods of Drentford? Make it a bullet list.",
)
_INSTRUCTIONS = (
    "Name three rivers.",
    "Describe a baker in one sentence.",
    "What is the difference between a lake and a river?",
)
_WITHOUT = "plain"
_STOP_SECONDS = 30


class DemoFailed(Exception):
    """Raised when the server of the demo does not start or does not end as it should."""


@dataclass(slots=True)
class _Answer:
    """One answer as it grows."""

    recipe: str
    text: str = ""
    # By the client's clock, from asking.
    first_token_s: float | None = None
    generation: Generation | None = None

    @property
    def summary(self) -> str:
        if self.generation is None or self.first_token_s is None:
            return ""
        timings, count = self.generation.timings, self.generation.usage.output_tokens
        rate = f", {(count - 1) / timings.decode:.0f} tokens/s" if timings.decode > 0 else ""
        return f"first token {self.first_token_s * 1000:.0f} ms{rate}, {count} tokens"


@dataclass(slots=True)
class _Round:
    """One instruction with its two answers."""

    instruction: str
    answers: list[_Answer] = field(default_factory=list)


def run(
    models: Sequence[str],
    *,
    recipe: str,
    max_tokens: int,
    seed: int,
) -> int:
    """Show the demo; return the process's exit code."""
    console = Console(highlight=False)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        note("starting a server")
        with serving(models) as address:
            console.print(Text(f"a server is ready at {address}", "dim"))
            rounds = [
                _Round(instruction, [_Answer(_WITHOUT), _Answer(recipe)])
                for instruction in (_INSTRUCTIONS if models else _EMBEDDED_INSTRUCTIONS)
            ]
            asyncio.run(_ask(console, address, rounds, max_tokens=max_tokens, seed=seed))
    except (BosalError, DemoFailed) as error:
        errors.print(f"error: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@contextmanager
def serving(models: Sequence[str]) -> Iterator[str]:
    """Run a server on a free port; its messages go to our standard error."""
    command = [sys.executable, "-m", "bosal_server", "serve", "--port=0", "--metrics-port=-1"]
    command.append("--database=temporary")
    command += ["--log-level=WARNING", "--lame-duck-seconds=0"]
    for model in models:
        command += ["--model", model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        if not ready.startswith("ready at "):
            raise DemoFailed("the server did not start")
        yield ready.removeprefix("ready at ").partition(",")[0]
    finally:
        process.terminate()
        try:
            code = process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        process.stdout.close()
    if code != 0:
        raise DemoFailed(f"the server ended with exit code {code}")


async def _ask(
    console: Console, address: str, rounds: Sequence[_Round], *, max_tokens: int, seed: int
) -> None:
    async with AsyncClient(address) as client:
        for one in rounds:
            asks = [
                _stream(client, one.instruction, answer, max_tokens, seed) for answer in one.answers
            ]
            if console.is_terminal:
                view = partial(_view, one)
                with Live(console=console, refresh_per_second=12, get_renderable=view):
                    await asyncio.gather(*asks)
            else:
                await asyncio.gather(*asks)
                for line in _lines(one):
                    console.print(line, markup=False, soft_wrap=True)


async def _stream(
    client: AsyncClient, instruction: str, answer: _Answer, max_tokens: int, seed: int
) -> None:
    begin = time.perf_counter()
    async with client.stream(
        instruction, recipe=answer.recipe, max_tokens=max_tokens, seed=seed
    ) as stream:
        async for batch in stream:
            if answer.first_token_s is None:
                answer.first_token_s = time.perf_counter() - begin
            answer.text += batch.text
        answer.generation = await stream.result()


def _view(one: _Round) -> RenderableType:
    panels = [
        Panel(
            Text(answer.text.strip()),
            title=Text(answer.recipe, "bold"),
            title_align="left",
            subtitle=Text(answer.summary, "dim"),
            subtitle_align="left",
        )
        for answer in one.answers
    ]
    beside = Table.grid(expand=True)
    for _ in panels:
        beside.add_column(ratio=1)
    beside.add_row(*panels)
    return Group(Text(f"\n{one.instruction}", "bold cyan"), beside)


def _lines(one: _Round) -> list[str]:
    lines = ["", f"> {one.instruction}"]
    for answer in one.answers:
        lines += [f"--- {answer.recipe}: {answer.summary}", answer.text.strip()]
    return lines
