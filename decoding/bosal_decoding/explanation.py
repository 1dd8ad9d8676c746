"""What a token owes to the model and what to the rules, as plain values."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Shift(StrEnum):
    """A token's class by its rank in the base stream's row (Lin et al. 2023, arXiv:2312.01552)."""

    UNSHIFTED = "UNSHIFTED"
    MARGINAL = "MARGINAL"
    SHIFTED = "SHIFTED"

    @classmethod
    def of(cls, raw_rank: int) -> "Shift":
        """Rank 1 is unshifted, 2 and 3 are marginal, the rest is shifted."""
        if raw_rank <= 1:
            return cls.UNSHIFTED
        return cls.MARGINAL if raw_rank <= 3 else cls.SHIFTED


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEffect:
    """What one rule did to one draw: the recipe against the recipe without it."""

    rule: str
    # Added to the logit of the emitted token, and of the uncontrolled one; -inf where masked.
    on_chosen: float
    on_uncontrolled: float
    # Tokens that only this rule masks.
    masked_tokens: int
    # What the same noise draws without this rule; None where it was not asked, because the token
    # is the uncontrolled one, or where nothing could be drawn.
    token_without: int | None
    # Without this rule alone the uncontrolled token comes back.
    flips: bool
    # Of a rule that combines streams, the one that did most to lift the emitted token over the
    # uncontrolled one, by its role; "" where there is none.
    stream: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherDraw:
    """What another recipe makes of the very same row, history and noise."""

    # None: it leaves nothing to draw.
    token: int | None
    # Rules of either recipe without which both draw the same; asked only where they do not.
    rules: tuple[str, ...]
    # KL of this recipe's distribution from the other's, after mask and temperature, before
    # truncation, in nats; infinite where the other forbids what this one allows.
    divergence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What one token owes to the model and what to the rules; logarithms are natural."""

    token: int
    raw_logprob: float
    raw_rank: int
    # After mask and temperature, before truncation.
    controlled_logprob: float
    controlled_rank: int
    # Of the base stream's row.
    entropy: float
    # KL(controlled || raw): the dose of control at this token.
    divergence: float
    raw_argmax: int
    # What the same noise draws from the base stream's row without any rule.
    uncontrolled_token: int
    # The rules that did something, in the recipe's order.
    effects: tuple[RuleEffect, ...]
    # One for each recipe that this one is compared with.
    others: tuple[OtherDraw, ...] = ()
    # Probability that the base's row gives to the tokens the constraint forbids; 0 without one.
    forbidden_mass: float = 0.0

    @property
    def is_unchanged(self) -> bool:
        """No rule changed this draw."""
        return self.token == self.uncontrolled_token

    @property
    def shift(self) -> Shift:
        return Shift.of(self.raw_rank)


@dataclass(slots=True, kw_only=True)
class ExplanationSummary:
    """The explanations of one choice, added up."""

    shifts: Counter[Shift] = field(default_factory=Counter)
    num_changed: int = 0
    total_divergence: float = 0.0
    total_forbidden_mass: float = 0.0
    # By rule: tokens where it did something, and tokens it alone flipped.
    activations: Counter[str] = field(default_factory=Counter)
    flips: Counter[str] = field(default_factory=Counter)

    @property
    def num_tokens(self) -> int:
        return self.shifts.total()

    @property
    def shifted_share(self) -> float:
        """Share of tokens of rank 4 or worse; 0 without tokens."""
        return self.shifts[Shift.SHIFTED] / max(self.num_tokens, 1)

    @property
    def mean_divergence(self) -> float:
        """Mean of KL(controlled || raw) over the tokens, in nats; 0 without tokens."""
        return self.total_divergence / max(self.num_tokens, 1)

    @property
    def mean_forbidden_mass(self) -> float:
        """Mean of what the constraint takes from the base's rows; 0 without tokens."""
        return self.total_forbidden_mass / max(self.num_tokens, 1)

    def add(self, explanations: Iterable[Explanation]) -> None:
        """Count tokens that are final."""
        for one in explanations:
            self.shifts[one.shift] += 1
            self.num_changed += not one.is_unchanged
            self.total_divergence += one.divergence
            self.total_forbidden_mass += one.forbidden_mass
            for effect in one.effects:
                self.activations[effect.rule] += 1
                self.flips[effect.rule] += effect.flips
