"""How many units an effect needs to be shown, by figures given or seen in an experiment."""

import math
from dataclasses import dataclass

from bosal_server.database import Database
from bosal_server.experiments.analysis import estimates
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.records import Entry
from bosal_server.experiments.totals import read_totals
from bosal_server.statistics.effect import Method
from bosal_server.statistics.plan import units_needed

__all__ = ["Plan", "PlanCommand", "plan"]

_ALPHA, _POWER = 0.05, 0.8
_MAX_UNITS = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCommand:
    """What is known of a metric; None: an experiment or the usual gives it."""

    effect: float
    deviation: float | None = None
    # Of a proportion, instead.
    rate: float | None = None
    alpha: float | None = None
    power: float | None = None
    method: Method | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Units of two equal variants together, and what they were computed from."""

    units: int
    effect: float
    deviation: float
    alpha: float
    power: float
    method: Method


def plan(database: Database, entry: Entry | None, asked: PlanCommand) -> Plan:
    """Compute the sample size.

    Raises:
        InvalidExperiment: with the field that is missing, or out of its range.
    """
    if not (math.isfinite(asked.effect) and asked.effect):
        raise InvalidExperiment("effect", "the smallest difference that matters, not 0")
    alpha = asked.alpha
    if alpha is None:
        alpha = _ALPHA if entry is None else entry.experiment.alpha
    power = _POWER if asked.power is None else asked.power
    for field, value, high in (("alpha", alpha, 0.2), ("power", power, 0.9999)):
        if not 0.0001 <= value <= high:
            raise InvalidExperiment(field, f"is {value}; it must be from 0.0001 to {high}")
    method = asked.method
    if method is None:
        is_fixed = entry is not None and entry.experiment.is_fixed_horizon
        method = Method.FIXED if is_fixed else Method.SEQUENTIAL
    deviation = _deviation(database, entry, asked)
    if abs(asked.effect) < deviation * math.sqrt(1 / _MAX_UNITS):
        raise InvalidExperiment("effect", f"too small to be shown by {_MAX_UNITS:.0e} units")
    units = units_needed(
        effect=asked.effect, deviation=deviation, method=method, alpha=alpha, power_wanted=power
    )
    return Plan(
        units=units,
        effect=asked.effect,
        deviation=deviation,
        alpha=alpha,
        power=power,
        method=method,
    )


def _deviation(database: Database, entry: Entry | None, asked: PlanCommand) -> float:
    if asked.rate is not None:
        if asked.deviation is not None:
            raise InvalidExperiment("rate", "give the deviation or, of a proportion, the rate")
        if not 0 < asked.rate < 1:
            raise InvalidExperiment("rate", f"is {asked.rate}; it must be between 0 and 1")
        # That of both arms in the middle between them.
        other = min(max(asked.rate + asked.effect, 0.0), 1.0)
        return math.sqrt((asked.rate * (1 - asked.rate) + other * (1 - other)) / 2)
    if asked.deviation is not None:
        if not (math.isfinite(asked.deviation) and asked.deviation > 0):
            raise InvalidExperiment("deviation", "must be above 0")
        return asked.deviation
    if entry is None:
        raise InvalidExperiment("deviation", "give it, a rate, or an experiment that has seen some")
    experiment = entry.experiment
    with database.read() as connection:
        totals = read_totals(connection, entry, experiment.phase.number)
    index = experiment.variants.index(experiment.control)
    found = estimates(experiment, experiment.primary, totals)[index]
    if found.units < experiment.min_units or not found.unit_variance > 0:
        raise InvalidExperiment(
            "deviation",
            f"'{experiment.name}' has {found.units} units of its control with a value of "
            f"'{experiment.primary.name}', too few to tell; give it",
        )
    return math.sqrt(found.unit_variance)
