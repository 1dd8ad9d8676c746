"""Quantiles and distributions of requests' outcomes, from rows; kept for a while."""

import json
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Select, Table, select

from bosal_server.database import Database
from bosal_server.experiments.metric import BUILT_IN, MetricKind
from bosal_server.experiments.records import Entry
from bosal_server.experiments.report import Distribution
from bosal_server.experiments.tables import COMPLETIONS, EXPOSURES, OUTCOMES, UNITS
from bosal_server.statistics.moments import Estimate
from bosal_server.statistics.quantile import clustered_quantile

__all__ = ["Distributions", "Rows"]

_SECONDS = 60.0
# Beyond so many requests a share of the units is read, whichever their HMACs fall to.
_MAX_ROWS = 400_000
_LATENCIES = ("ttft_ms", "tpot_ms", "total_ms", "output_tokens")


@dataclass(frozen=True, slots=True)
class Rows:
    """Values of one outcome: which arm, which unit (from 0), what."""

    arms: NDArray[np.int64]
    units: NDArray[np.int64]
    values: NDArray[np.float64]


class Distributions:
    """Reads each experiment's rows at most once a minute."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: dict[tuple[int, int], tuple[float, dict[str, Rows]]] = {}

    def quantiles(
        self, entry: Entry, phase: int, requests: int, now: float
    ) -> dict[str, list[Estimate | None]]:
        """Return every quantile metric's estimate of each arm."""
        rows = self._rows(entry, phase, requests, now)
        found: dict[str, list[Estimate | None]] = {}
        for metric in entry.experiment.metrics:
            if metric.kind is MetricKind.QUANTILE:
                found[metric.name] = [
                    _quantile(rows.get(metric.outcome), arm, metric.level)
                    for arm in range(len(entry.experiment.variants))
                ]
        return found

    def curves(self, entry: Entry, phase: int, requests: int, now: float) -> list[Distribution]:
        """Return the distribution of each latency over each arm's requests."""
        found = []
        for outcome, rows in self._rows(entry, phase, requests, now).items():
            if outcome not in _LATENCIES:
                continue
            for arm, variant in enumerate(entry.experiment.variants):
                values = rows.values[rows.arms == arm]
                if len(values):
                    found.append(
                        Distribution(
                            outcome=outcome,
                            variant=variant.key,
                            count=len(values),
                            percentiles=tuple(np.percentile(values, range(101)).tolist()),
                        )
                    )
        return found

    def _rows(self, entry: Entry, phase: int, requests: int, now: float) -> dict[str, Rows]:
        key = (entry.id, phase)
        with self._lock:
            known = self._known.get(key)
            if known is not None and abs(now - known[0]) < _SECONDS:
                return known[1]
            rows = self._read(entry, phase, requests)
            self._known[key] = (now, rows)
            return rows

    def _read(self, entry: Entry, phase: int, requests: int) -> dict[str, Rows]:
        names = {*_LATENCIES} | {
            metric.outcome
            for metric in entry.experiment.metrics
            if metric.kind is MetricKind.QUANTILE
        }
        found: dict[str, list[tuple[int, bytes, float]]] = {}
        below = None
        if requests > _MAX_ROWS:
            # HMACs are uniform, so this is a fair sample of units, and always the same one.
            below = int(_MAX_ROWS / requests * 2**64).to_bytes(8, "big")
        with self._database.read() as connection:
            for variant, unit, text in connection.execute(_measured(entry, phase, below)):
                outcomes: dict[str, Any] = json.loads(text)
                for name in names & outcomes.keys():
                    found.setdefault(name, []).append((variant, unit, outcomes[name]))
            if sent := names - BUILT_IN.keys():
                for variant, unit, name, value in connection.execute(
                    _sent(entry, phase, below).where(OUTCOMES.c.name.in_(sent))
                ):
                    found.setdefault(name, []).append((variant, unit, value))
        return {name: _arrays(rows) for name, rows in found.items()}


def _measured(entry: Entry, phase: int, below: bytes | None) -> Select[int, bytes, str]:
    """Select what the server measured of the requests of analysed units."""
    query = (
        select(EXPOSURES.c.variant, EXPOSURES.c.unit, COMPLETIONS.c.outcomes)
        .join(
            COMPLETIONS,
            (COMPLETIONS.c.experiment == EXPOSURES.c.experiment)
            & (COMPLETIONS.c.exposure == EXPOSURES.c.id),
        )
        .join(UNITS, _is_unit_of(EXPOSURES))
        .where(
            EXPOSURES.c.experiment == entry.id,
            EXPOSURES.c.phase == phase,
            ~EXPOSURES.c.is_forced,
            ~UNITS.c.is_mixed,
        )
    )
    return query if below is None else query.where(EXPOSURES.c.unit < below)


def _sent(entry: Entry, phase: int, below: bytes | None) -> Select[int, bytes, str, float]:
    """Select what clients sent of analysed units, by exposure or by unit; forced requests' not."""
    query = (
        select(UNITS.c.variant, OUTCOMES.c.unit, OUTCOMES.c.name, OUTCOMES.c.value)
        .join(UNITS, _is_unit_of(OUTCOMES))
        .join(
            EXPOSURES,
            (EXPOSURES.c.experiment == OUTCOMES.c.experiment)
            & (EXPOSURES.c.id == OUTCOMES.c.exposure),
            isouter=True,
        )
        .where(
            OUTCOMES.c.experiment == entry.id,
            OUTCOMES.c.phase == phase,
            ~UNITS.c.is_mixed,
            EXPOSURES.c.is_forced.is_not(True),
        )
    )
    return query if below is None else query.where(OUTCOMES.c.unit < below)


def _is_unit_of(table: Table) -> ColumnElement[bool]:
    return (
        (UNITS.c.experiment == table.c.experiment)
        & (UNITS.c.phase == table.c.phase)
        & (UNITS.c.unit == table.c.unit)
    )


def _arrays(rows: list[tuple[int, bytes, float]]) -> Rows:
    numbers: dict[bytes, int] = {}
    units = [numbers.setdefault(bytes(unit), len(numbers)) for _, unit, _ in rows]
    return Rows(
        np.array([arm for arm, _, _ in rows], dtype=np.int64),
        np.array(units, dtype=np.int64),
        np.array([value for _, _, value in rows], dtype=np.float64),
    )


def _quantile(rows: Rows | None, arm: int, level: float) -> Estimate | None:
    if rows is None:
        return None
    chosen = rows.arms == arm
    return clustered_quantile(rows.values[chosen], rows.units[chosen], level)
