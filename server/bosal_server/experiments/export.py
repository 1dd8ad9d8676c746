"""What was recorded, row by row, a page at a time."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import select, tuple_

from bosal_server.database import Database
from bosal_server.experiments.records import Entry, PairKind
from bosal_server.experiments.tables import COMPLETIONS, EXPOSURES, OUTCOMES, PAIRS

__all__ = ["ExportPage", "ExposureRow", "OutcomeRow", "PairRow", "pages"]

_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureRow:
    """One exposure, with what was measured of its request."""

    id: bytes
    phase: int
    unit: bytes
    variant: str
    is_forced: bool
    recipe_version: str
    model_digest: str
    seed: int
    instruction_tokens: int
    at: float
    outcomes: Mapping[str, float]
    # "": the request has not ended.
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """One outcome that a client sent."""

    exposure: bytes
    unit: bytes
    name: str
    value: float
    at: float
    is_orphan: bool
    phase: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One exposure beside what another variant makes of it."""

    exposure: bytes
    phase: int
    # The one of the two that is not the control.
    variant: str
    is_shadow: bool
    is_touched: bool
    # None: the two are equal.
    position: int | None
    control_token: bytes
    token: bytes
    cause: str
    rules: tuple[str, ...]
    outcomes: Mapping[str, tuple[float, float]]
    at: float


@dataclass(frozen=True, slots=True)
class ExportPage:
    """Some rows; exposures come first, pairs last."""

    exposures: tuple[ExposureRow, ...] = ()
    outcomes: tuple[OutcomeRow, ...] = ()
    pairs: tuple[PairRow, ...] = ()


def pages(database: Database, entry: Entry, phase: int) -> Iterator[ExportPage]:
    """Yield every row of a phase; 0: of all, orphans too."""
    yield from _exposures(database, entry, phase)
    yield from _outcomes(database, entry, phase)
    yield from _pairs(database, entry, phase)


def _exposures(database: Database, entry: Entry, phase: int) -> Iterator[ExportPage]:
    exposed, done = EXPOSURES.c, COMPLETIONS.c
    query = (
        select(EXPOSURES, done.outcomes, done.finish_reason)
        .join(
            COMPLETIONS,
            (done.experiment == exposed.experiment) & (done.exposure == exposed.id),
            isouter=True,
        )
        .where(exposed.experiment == entry.id)
        .order_by(exposed.id)
        .limit(_ROWS)
    )
    if phase:
        query = query.where(exposed.phase == phase)
    variants = entry.experiment.variants
    last = b""
    while True:
        with database.read() as connection:
            rows = connection.execute(query.where(exposed.id > last)).all()
        if not rows:
            return
        yield ExportPage(
            exposures=tuple(
                ExposureRow(
                    id=bytes(row.id),
                    phase=row.phase,
                    unit=bytes(row.unit),
                    variant=variants[row.variant].key if row.variant >= 0 else "",
                    is_forced=row.is_forced,
                    recipe_version=row.recipe_version,
                    model_digest=row.model_digest,
                    seed=row.seed,
                    instruction_tokens=row.instruction_tokens,
                    at=row.at,
                    outcomes=json.loads(row.outcomes or "{}"),
                    finish_reason=row.finish_reason or "",
                )
                for row in rows
            )
        )
        last = bytes(rows[-1].id)


def _outcomes(database: Database, entry: Entry, phase: int) -> Iterator[ExportPage]:
    columns = OUTCOMES.c
    query = select(OUTCOMES).where(columns.experiment == entry.id)
    query = query.order_by(columns.key).limit(_ROWS)
    if phase:
        query = query.where(columns.phase == phase)
    last = b""
    while True:
        with database.read() as connection:
            rows = connection.execute(query.where(columns.key > last)).all()
        if not rows:
            return
        yield ExportPage(
            outcomes=tuple(
                OutcomeRow(
                    exposure=bytes(row.exposure or b""),
                    unit=bytes(row.unit or b""),
                    name=row.name,
                    value=row.value,
                    at=row.at,
                    is_orphan=row.is_orphan,
                    phase=row.phase,
                )
                for row in rows
            )
        )
        last = bytes(rows[-1].key)


def _pairs(database: Database, entry: Entry, phase: int) -> Iterator[ExportPage]:
    columns = PAIRS.c
    query = select(PAIRS).where(columns.experiment == entry.id)
    query = query.order_by(columns.exposure, columns.variant).limit(_ROWS)
    if phase:
        query = query.where(columns.phase == phase)
    sides = entry.experiment.sides
    last: tuple[bytes, int] = (b"", -1)
    while True:
        here = tuple_(columns.exposure, columns.variant) > tuple_(*last)
        with database.read() as connection:
            rows = connection.execute(query.where(here)).all()
        if not rows:
            return
        yield ExportPage(
            pairs=tuple(
                PairRow(
                    exposure=bytes(row.exposure),
                    phase=row.phase,
                    variant=sides[row.variant].key,
                    is_shadow=row.kind == PairKind.SHADOW,
                    is_touched=row.is_touched,
                    position=row.position,
                    control_token=bytes(row.control_token),
                    token=bytes(row.token),
                    cause=row.cause,
                    rules=tuple(json.loads(row.rules)),
                    outcomes=json.loads(row.outcomes),
                    at=row.at,
                )
                for row in rows
            )
        )
        last = (bytes(rows[-1].exposure), rows[-1].variant)
