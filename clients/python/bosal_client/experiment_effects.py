"""What variants do against the control, as reports say it; the names are the wire's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = [
    "CAUSES",
    "DivergenceExample",
    "DivergenceReport",
    "DoseReport",
    "Effect",
    "PairedEffect",
    "ShadowReport",
]


# Why texts part, by the wire's names.
CAUSES: Final[Mapping[str, str]] = {
    "RULE": "a rule",
    "PROMPT": "another prompt",
    "NUMERICS": "numerics, no rule",
    "ENDING": "one had ended",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A variant less the control; None: too little is known."""

    variant: str
    difference: float | None
    low: float | None
    high: float | None
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    p_value: float
    adjusted_p: float
    method: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceExample:
    """A request that parted: where, at which tokens (b"": that text had ended), and why."""

    position: int
    control_token: bytes
    token: bytes
    cause: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceReport:
    """Where a variant's text first leaves the control's under the same noise."""

    variant: str
    is_shadow: bool
    requests: int
    equal: int
    # Could not be held together; of a shadow: given up.
    unknown: int
    # Causes by the wire's names: RULE, PROMPT, NUMERICS, ENDING.
    causes: Mapping[str, int]
    rules: Mapping[str, int]
    mean_position: float | None
    examples: tuple[DivergenceExample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedEffect:
    """What programs measured of a shadow less the same of the control; None: not known."""

    outcome: str
    units: int
    control: float
    variant: float
    difference: float
    low: float | None
    high: float | None
    p_value: float
    # How many times as many units two separate arms would need.
    saving: float | None
    method: str

    def open_because(self, min_units: int) -> str:
        """Say why there is no interval, of an experiment with so many units at least."""
        if self.low is not None:
            return ""
        if self.units < min_units:
            return f"too few units: {self.units} of {min_units}"
        return "the same in every pair"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReport:
    variant: str
    pairs: int
    given_up: int
    effects: tuple[PairedEffect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseReport:
    """How many requests a variant touches, and the primary metric among the units of those."""

    variant: str
    requests: int
    touched: int
    control_units: int
    units: int
    touched_share: float | None
    effect: Effect
    # Spread over all units; None: too little is known, or a ratio.
    diluted: Effect | None
