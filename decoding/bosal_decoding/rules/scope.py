"""When a rule acts: parameters every rule takes besides its own."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from bosal_decoding.limits import MAX_TOKENS
from bosal_decoding.schema import Schema, whole
from bosal_kernels import Region, Scope

_REGIONS = {
    "everywhere": Region.ANY,
    "inside_constraint": Region.INSIDE,
    "outside_constraint": Region.OUTSIDE,
}


class RuleScope(Schema):
    """The output positions at which a rule acts; its parts must all hold."""

    first: Annotated[int, Field(ge=1, le=MAX_TOKENS), whole] | None = None
    """Only while the output has fewer tokens than this."""
    after: Annotated[int, Field(ge=0, le=MAX_TOKENS), whole] | None = None
    """Only once the output has this many tokens."""
    region: Literal["everywhere", "inside_constraint", "outside_constraint"] | None = None
    """Where with regard to the constraint; unset is the rule's own default."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> "RuleScope":
        if self.first is not None and self.after is not None and self.after >= self.first:
            raise ValueError(f"never holds: 'after' {self.after} is not below 'first' {self.first}")
        return self


class RuleGate(Schema):
    """What the model's own row must look like for a rule to act; its parts must all hold."""

    top1_below: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only where the most likely token has less than this probability."""
    entropy_above: Annotated[float, Field(ge=0, le=100)] | None = None
    """Only where the entropy, in nats, is greater than this."""

    @model_validator(mode="after")
    def _has_some(self) -> "RuleGate":
        if self.top1_below is None and self.entropy_above is None:
            raise ValueError("needs 'top1_below' or 'entropy_above'")
        return self


def _spelled_out(value: object) -> object:
    return {"region": value} if isinstance(value, str) else value


ScopeField = Annotated[RuleScope, BeforeValidator(_spelled_out)]


def kernel_scope(
    scope: RuleScope | None, gate: RuleGate | None, *, default: Region, has_constraint: bool
) -> Scope | None:
    """Put scope and gate together; None if they never hold.

    Without a constraint everything is outside of it.
    """
    scope = scope or RuleScope()
    region = default if scope.region is None else _REGIONS[scope.region]
    if not has_constraint:
        if region is Region.INSIDE:
            return None
        region = Region.ANY
    always = Scope()
    return Scope(
        after=always.after if scope.after is None else scope.after,
        until=always.until if scope.first is None else scope.first,
        region=region,
        top1_below=(
            always.top1_below if gate is None or gate.top1_below is None else gate.top1_below
        ),
        entropy_above=(
            always.entropy_above
            if gate is None or gate.entropy_above is None
            else gate.entropy_above
        ),
    )
