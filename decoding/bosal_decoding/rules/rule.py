"""What a rule is: validated parameters, and how they become a plan's numbers."""

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field

from bosal_decoding.rules.draft import Draft
from bosal_decoding.rules.scope import RuleGate, ScopeField, kernel_scope
from bosal_decoding.schema import Schema
from bosal_kernels import Region, Scope


class RuleStage(StrEnum):
    """The stages of the step contract that rules act in, in their order."""

    COMBINE = "combine"
    SHAPE = "shape"
    MASK = "mask"
    TRUNCATE = "truncate"
    FORCE = "force"
    STOP = "stop"


class Rule(Schema, ABC):
    """One named decoding control with typed parameters."""

    name: ClassVar[str]
    stage: ClassVar[RuleStage]
    summary: ClassVar[str]
    # One line of mathematics; z are logits, p probabilities, L the output length.
    formula: ClassVar[str]
    # The paper or project the rule is taken from.
    source: ClassVar[str]
    # Where it acts unless its scope says otherwise.
    region: ClassVar[Region] = Region.ANY
    # Whether it may be limited by `scope` and `when`; not if it has a place of its own.
    is_scopable: ClassVar[bool] = True

    scope: ScopeField | None = Field(default=None, repr=False)
    """Where the rule acts: first m tokens, after L tokens, inside or outside of a constraint."""
    when: RuleGate | None = Field(default=None, repr=False)
    """How sure the model must be for the rule to act."""

    @abstractmethod
    def contribute(self, draft: Draft) -> None:
        """Write this rule's part of the plan.

        It may be in a recipe twice, under scopes that never meet. `Draft.set`, `weigh_id`,
        `truncate` and the like keep to the scope. What a choice has but one of, whatever the scope
        (a state it starts with, a set that is made once), goes through `Draft.agree` first, or the
        rule that comes last would decide for both.
        """

    @property
    def models(self) -> tuple[str, ...]:
        """The served models it names."""
        return ()

    def params(self) -> dict[str, Any]:
        """The parameters in force, defaults filled in; `scope` and `when` only where given."""
        params = self.model_dump(mode="json")
        for name in ("scope", "when"):
            if params[name] is None:
                del params[name]
        return params

    def kernel_scope(self, *, has_constraint: bool) -> Scope | None:
        """When the rule acts; None is never."""
        return kernel_scope(
            self.scope, self.when, default=self.region, has_constraint=has_constraint
        )

    @property
    def is_always(self) -> bool:
        """Whether it acts at every step of whatever recipe."""
        return self.kernel_scope(has_constraint=True) == Scope()

    def holds_at(self, position: int, *, in_constraint: bool) -> bool:
        """Whether the rule is surely in force at an output position; a gate is never sure."""
        scope = self.kernel_scope(has_constraint=in_constraint)
        return scope is not None and scope.holds_at(position, inside=in_constraint)

    def overlaps(self, other: "Rule") -> bool:
        """Whether both may act at one step."""
        mine = self.kernel_scope(has_constraint=True)
        theirs = other.kernel_scope(has_constraint=True)
        return mine is not None and theirs is not None and mine.overlaps(theirs)
