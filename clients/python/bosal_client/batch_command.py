"""`bosal generate --batch`: checks, progress, exit codes."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from bosal_client import errors, render
from bosal_client.batch import Batch, Outcome
from bosal_client.batch_file import Answers, BatchError
from bosal_client.invocation import EXIT_CODES

__all__ = ["run"]


def run(batch: Batch, server: str) -> None:
    """Answer a batch; end with exit code 1 if some request was refused or failed."""
    failed = 0

    def observe(outcome: Outcome) -> None:
        nonlocal failed
        failed += isinstance(outcome, errors.BosalError)
        advance(outcome)

    try:
        with Answers(batch.answers) as answers:
            total, before = batch.check(answers)
            with _progress(total, before) as advance:
                asyncio.run(batch.run(server, answers, observe))
    except BatchError as error:
        raise typer.BadParameter(str(error), param_hint="--batch") from error
    except KeyboardInterrupt:
        render.warning("interrupted; the same command goes on from here")
        raise typer.Exit(EXIT_CODES[errors.Cancelled]) from None
    except errors.BosalError as error:
        render.error(error, server)
        render.warning("what was answered is kept; the same command goes on from here")
        raise typer.Exit(EXIT_CODES.get(type(error), 1)) from None
    done = total - before - failed
    earlier = f", {before} were before" if before else ""
    render.note(f"{done} answered{earlier}, {failed} failed: {batch.answers}")
    if failed:
        raise typer.Exit(1)


class _Advance(Protocol):
    def __call__(self, outcome: Outcome) -> None: ...


@contextmanager
def _progress(total: int, done: int) -> Iterator[_Advance]:
    """Show how far the batch is, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda outcome: None
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[tokens]} tokens, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, completed=done, tokens=0, failed=0)
        tokens = failed = 0

        def advance(outcome: Outcome) -> None:
            nonlocal tokens, failed
            if isinstance(outcome, errors.BosalError):
                failed += 1
            else:
                tokens += outcome.usage.output_tokens
            progress.update(task, advance=1, tokens=tokens, failed=failed)

        yield advance
