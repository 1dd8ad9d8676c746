"""What a rule is: validated parameters, and how they become a plan's numbers."""

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar

from bosal_decoding.rules.draft import Draft
from bosal_decoding.schema import Schema


class RuleStage(StrEnum):
    """The stages of the step contract that rules act in, in their order."""

    SHAPE = "shape"
    MASK = "mask"
    TRUNCATE = "truncate"
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

    @abstractmethod
    def contribute(self, draft: Draft) -> None:
        """Write this rule's part of the plan."""
