"""A whole run as the command line asks for it: connect, ask, show progress, take floors."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bosal_client import AsyncClient
from bosal_client.identity import Identity
from bosal_lab.evaluate import AskedRecipe, Settings, add_arms, evaluate
from bosal_lab.floors import store_floors
from bosal_lab.item import Suite
from bosal_lab.record import Arm, Record
from bosal_lab.results import Results

__all__ = ["Request", "run_evaluation"]

_NOBODY = Identity()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which recipes are asked on which models, and how."""

    arms: tuple[tuple[str, AskedRecipe], ...]
    seed: int = 0
    is_coupled: bool = True
    max_tokens: int | None = None
    settings: Settings


async def run_evaluation(
    server: str,
    out: Path,
    suite: Suite,
    request: Request,
    command: str,
    identity: Identity = _NOBODY,
) -> None:
    """Ask what `out` has no answer to yet; progress goes to standard error."""
    with Results.create(out, suite) as results:
        async with AsyncClient(server, **identity.options()) as client:
            info = asdict(await client.server_info())
            arms = await add_arms(
                client,
                results,
                request.arms,
                seed=request.seed,
                is_coupled=request.is_coupled,
                max_tokens=request.max_tokens,
            )
            results.start_run(command, info)
            with _bars() as progress:
                bars = _Bars(progress, results, suite, arms, request.settings)
                await evaluate(client, results, suite, arms, request.settings, bars.observe)
        store_floors(results, suite)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


class _Bars:
    """One progress bar an arm."""

    def __init__(
        self,
        progress: Progress,
        results: Results,
        suite: Suite,
        arms: Sequence[Arm],
        settings: Settings,
    ) -> None:
        self._progress = progress
        self._num_errors = dict.fromkeys((arm.name for arm in arms), 0)
        names = {item.id for item in suite.of(settings.split)}
        done = [
            arm
            for arm, item, sample in results.done(with_errors=not settings.retries_errors)
            if item in names and sample < settings.samples
        ]
        self._tasks = {
            arm.name: progress.add_task(
                arm.name,
                total=len(names) * settings.samples,
                completed=done.count(arm.name),
                note="",
            )
            for arm in arms
        }

    def observe(self, record: Record) -> None:
        self._num_errors[record.arm] += bool(record.error)
        errors = self._num_errors[record.arm]
        note = f"{errors} errors" if errors else ""
        self._progress.update(self._tasks[record.arm], advance=1, note=note)
