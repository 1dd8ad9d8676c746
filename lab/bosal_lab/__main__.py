"""The lab's command line: `python -m bosal_lab build`."""

from __future__ import annotations

import os
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from bosal_lab import corpus
from bosal_lab.audit import LIMIT, find_copies
from bosal_lab.build import Build, Plan
from bosal_lab.errors import LabError
from bosal_lab.export import ship
from bosal_lab.family import FAMILY, member
from bosal_lab.genesis import make_world
from bosal_lab.memory import keep_freed_memory
from bosal_lab.suite import lab_suite
from bosal_lab.tune import example, pair

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def lab() -> None:
    """Train and measure the project's own small models."""


class Bars:
    """One progress bar for each stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, note="")
        self._progress.update(self._tasks[stage], completed=done, total=total, note=note)


class Lines:
    """A line for each stage's end, and now and then before it: for a log."""

    def __init__(self, console: Console, every: float = 60.0) -> None:
        """`every` is in seconds."""
        self._console = console
        self._every = every
        self._told_at = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if done < total and now - self._told_at < self._every:
            return
        self._told_at = now
        self._console.print(f"{stage}: {done} of {total}, {note}", markup=False, soft_wrap=True)


def _usable(device: str) -> str:
    """Refuse a device that training would fail on, before the stages that come first."""
    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError) as error:  # The latter: a torch without CUDA.
        raise typer.BadParameter(str(error).splitlines()[0]) from error
    return device


def _compilable(is_compiled: bool) -> bool:
    """Refuse to compile where torch would find no C++ compiler after the stages that come first."""
    wanted = os.environ.get("CXX", "g++")
    if is_compiled and shutil.which(wanted) is None:
        raise typer.BadParameter(f"needs a C++ compiler: {wanted} is not installed (or set CXX)")
    return is_compiled


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Where the build lives.")] = Path("lab/.cache/build"),
    seed: Annotated[int, typer.Option(help="Seed of world, corpus and suite.")] = 0,
    training_seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    quick: Annotated[bool, typer.Option(help="A small build that learns little.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Models to train; repeatable.")] = None,
    ship_to: Annotated[Path | None, typer.Option("--ship", help="Copy the models here.")] = None,
    device: Annotated[str, typer.Option(callback=_usable, help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch on a CPU; 0: all.")] = 0,
    is_compiled: Annotated[
        bool,
        typer.Option("--compile", callback=_compilable, help="Compile the training step."),
    ] = False,
) -> None:
    """Build the world, the tokenizer, the corpus, the suite and the models."""
    keep_freed_memory()
    disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    plan = Plan(seed=seed, training_seed=training_seed)
    columns = (
        TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(),
        Remaining(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    console = Console()
    try:
        names = [member(name).name for name in only] if only else list(FAMILY)
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            chosen = plan.quick() if quick else plan
            tell = Bars(progress) if console.is_terminal else Lines(console)
            folders = Build(out, chosen, tell, device, is_compiled=is_compiled).run(names)
        if ship_to is not None:
            size = ship(folders, ship_to)
            console.print(f"{len(folders)} models, {size / 2**20:.1f} MiB in {ship_to}")
    except LabError as error:
        Console(stderr=True).print(Text(str(error), "red"), soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None


@app.command()
def audit(
    seed: Annotated[int, typer.Option(help="Seed of world, corpus and tuning set.")] = 0,
    documents: Annotated[int, typer.Option(help="How many documents to read.")] = 20_000,
    pairs: Annotated[int, typer.Option(help="How many tuning pairs to read.")] = 20_000,
    limit: Annotated[float, typer.Option(help="Overlap that counts as a copy.")] = LIMIT,
) -> None:
    """Look for the suite's instructions in the corpus and in the tuning set."""
    world, console = make_world(seed), Console()
    texts = islice(corpus.texts(world, seed, start=corpus.HELD_OUT), documents)
    sources = {
        "corpus": (line for text in texts for line in text.splitlines()),
        "tuning set": (example(pair(world, seed, index))[0] for index in range(pairs)),
    }
    is_clean = True
    for name, source in sources.items():
        found = find_copies(lab_suite().items, source, limit=limit)
        is_clean = is_clean and found.is_clean
        counts = f"{len(found.exact)} copies, {len(found.near)} with an overlap above {limit:.0%}"
        console.print(f"{name}: {found.texts:,} texts read; {counts}")
        if found.nearest is not None:
            console.print(f"  nearest ({found.nearest.overlap:.0%}): {found.nearest.text}")
    raise typer.Exit(0 if is_clean else 1)


if __name__ == "__main__":
    app()
