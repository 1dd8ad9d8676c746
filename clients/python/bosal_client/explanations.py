"""What every token owes to the model and what to the rules, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass

from bosal.v1 import generation_pb2 as pb

__all__ = ["Explanation", "ExplanationSummary", "RuleEffect", "read", "read_summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEffect:
    """What one rule did to one draw: the recipe against the recipe without it."""

    rule: str
    # Added to the logit of the emitted token, and of the uncontrolled one; -inf where masked.
    on_chosen: float
    on_uncontrolled: float
    # Tokens that only this rule masks.
    masked_tokens: int
    # What the same noise draws without this rule; None where the token is the uncontrolled one.
    token_without: int | None
    token_without_bytes: bytes
    # Removing this rule alone gives the uncontrolled token back.
    flips: bool
    # Of a rule that combines streams, the one that did most for the token: `unconditional`, …
    stream: str = ""

    @property
    def source(self) -> str:
        """The rule, with the stream by which it moved the token if it combines streams."""
        return f"{self.rule} ({self.stream})" if self.stream else self.rule

    def decides(self, token: int) -> bool:
        """Whether removing this rule alone would have changed the token."""
        return self.token_without is not None and self.token_without != token


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One token's; a token that was not drawn, but forced, has an empty shift."""

    raw_logprob: float
    raw_rank: int
    controlled_logprob: float
    controlled_rank: int
    # Of the model's row, in nats.
    entropy: float
    # KL(controlled || raw), in nats.
    divergence: float
    raw_argmax: int
    raw_argmax_bytes: bytes
    # What the same noise draws without any rule.
    uncontrolled_token: int
    uncontrolled_bytes: bytes
    # `unshifted` (rank 1), `marginal` (2 and 3), `shifted`.
    shift: str
    # The rules that did something here, in the recipe's order.
    rules: tuple[RuleEffect, ...]
    # Probability that the model gives to the tokens the constraint forbids; 0 without one.
    forbidden_mass: float = 0.0

    def deciding_rules(self, token: int) -> tuple[str, ...]:
        """The rules without which the token would have been another."""
        return tuple(effect.rule for effect in self.rules if effect.decides(token))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationSummary:
    """The explanations of one choice, added up."""

    unshifted_tokens: int
    marginal_tokens: int
    shifted_tokens: int
    # Tokens that differ from the uncontrolled draw.
    changed_tokens: int
    # Mean of KL(controlled || raw) over the tokens, in nats.
    mean_divergence: float
    # By rule: tokens where it did something, and tokens that removing it would give back.
    activations: Mapping[str, int]
    flips: Mapping[str, int]
    # Mean of forbidden_mass over the tokens.
    mean_forbidden_mass: float = 0.0


def read(message: pb.Explanation) -> Explanation:
    return Explanation(
        raw_logprob=message.raw_logprob,
        raw_rank=message.raw_rank,
        controlled_logprob=message.controlled_logprob,
        controlled_rank=message.controlled_rank,
        entropy=message.entropy,
        divergence=message.divergence,
        raw_argmax=message.raw_argmax,
        raw_argmax_bytes=message.raw_argmax_bytes,
        uncontrolled_token=message.uncontrolled_token,
        uncontrolled_bytes=message.uncontrolled_bytes,
        shift=_shift(message.shift),
        rules=tuple(
            RuleEffect(
                rule=effect.rule,
                on_chosen=effect.on_chosen,
                on_uncontrolled=effect.on_uncontrolled,
                masked_tokens=effect.masked_tokens,
                token_without=effect.token_without if effect.HasField("token_without") else None,
                token_without_bytes=effect.token_without_bytes,
                flips=effect.flips,
                stream=effect.stream,
            )
            for effect in message.rules
        ),
        forbidden_mass=message.forbidden_mass,
    )


def read_summary(message: pb.ExplanationSummary) -> ExplanationSummary:
    return ExplanationSummary(
        unshifted_tokens=message.unshifted_tokens,
        marginal_tokens=message.marginal_tokens,
        shifted_tokens=message.shifted_tokens,
        changed_tokens=message.changed_tokens,
        mean_divergence=message.mean_divergence,
        activations={rule.rule: rule.activations for rule in message.rules},
        flips={rule.rule: rule.flips for rule in message.rules},
        mean_forbidden_mass=message.mean_forbidden_mass,
    )


def _shift(value: int) -> str:
    if value == pb.SHIFT_UNSPECIFIED:
        return ""
    if value not in pb.Shift.values():  # A newer server's.
        return f"shift_{value}"
    return pb.Shift.Name(pb.Shift.ValueType(value))[len("SHIFT_") :].lower()
