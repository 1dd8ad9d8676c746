"""How `bosal eval` shows tables and failures on a terminal and in a pipe."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bosal_client import BosalError, extras, render
from bosal_client.invocation import EXIT_CODES
from bosal_lab.errors import LabError

if TYPE_CHECKING:
    from bosal_lab.item import Split
    from bosal_lab.tables import Grid

__all__ = ["reporting", "show", "summarise"]

# A terminal is no wider; the page shows them all.
_MOST_INTERVALS = 3


def summarise(file: Path, metric: str, split: "Split | None") -> None:
    """Print what every arm in a results database achieved."""
    from bosal_lab import tables
    from bosal_lab.results import Results
    from bosal_lab.summary import floor_rows, summaries

    with Results.open(file) as results:
        found = summaries(results, metric=metric, split=split)
        below = floor_rows(results, split)
        unscored = {one.arm.name: results.unscored(one.arm.name) for one in found}
    for grid in (
        tables.arms(found),
        tables.floors(below),
        tables.categories(found, [], has_intervals=len(found) <= _MOST_INTERVALS),
        tables.shifts(found),
        tables.unscored(unscored),
    ):
        if grid.rows:
            show(grid)
            typer.echo()


def show(grid: "Grid") -> None:
    """Print a table on a terminal, tab-separated lines in a pipe."""
    if not sys.stdout.isatty():
        for row in (grid.header, *grid.rows):
            typer.echo("\t".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in grid.header:
        table.add_column(Text(name), overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    Console().print(table)


@contextmanager
def reporting(server: str = "") -> Iterator[None]:
    """Turn a failure into one line on standard error and an exit code."""
    try:
        yield
    except LabError as error:
        render.error(error)
        raise typer.Exit(getattr(error, "exit_code", 2)) from None
    except BosalError as error:
        render.error(error, server)
        raise typer.Exit(EXIT_CODES.get(type(error), 2)) from None
    except sqlite3.DatabaseError as error:
        render.error(RuntimeError(f"the results database cannot be used: {error}"))
        raise typer.Exit(2) from None
    except ImportError as error:
        render.error(RuntimeError(extras.missing("the evaluation", "lab", error)))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        render.error(RuntimeError("interrupted; the same command goes on from here"))
        raise typer.Exit(130) from None
