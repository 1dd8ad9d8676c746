"""One shadow of an explained choice, all of one choice's, and the rows they read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from bosal_decoding.counterfactuals import Counterfactual, Other, Without
from bosal_decoding.plan import Plan
from bosal_decoding.slots import Slots


@dataclass(slots=True, eq=False)
class Shadow:
    """One slot of the second pipeline, with what it takes to begin it again elsewhere."""

    counterfactual: Counterfactual
    history: Sequence[int]
    seed: int
    choice: int
    # Who draws as this one would but for a rule, so that its draws teach both; None: the choice.
    teacher: "Shadow | None" = None
    slot: int = -1
    bans: list[tuple[int, int]] = field(default_factory=list)
    is_in_constraint: bool = False

    def begin(self, slots: Slots) -> None:
        """Take its slot, before the first token."""
        slots.add(
            self.slot,
            self.counterfactual.plan,
            history=self.history,
            seed=self.seed,
            choice=self.choice,
        )

    def resume(self, slots: Slots) -> None:
        """Go on as it was behind the output that its slot has again."""
        for position, token in self.bans:
            slots.ban(self.slot, position, token)
        slots.set_in_constraint([self.slot], [self.is_in_constraint])


@dataclass(slots=True, eq=False)
class Explained:
    """The shadows of one choice."""

    plan: Plan
    bare: Shadow
    without: list[tuple[Without, Shadow]]
    # Each with the shadow of its plan, and those of its plan less a rule.
    others: list[tuple[Other, Shadow, list[tuple[Without, Shadow]]]]
    # Whether every rule is asked at every token.
    has_effects: bool

    @property
    def num_streams(self) -> int:
        return self.plan.num_streams

    def __iter__(self) -> Iterator[Shadow]:
        yield self.bare
        for _, shadow in self.without:
            yield shadow
        for _, shadow, without in self.others:
            yield shadow
            for _, less in without:
                yield less


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRows:
    """The rows of E explained choices at one step, before anything was done to them."""

    # [R, V] of all their streams, choice after choice, the base first.
    streams: Tensor
    # Where each choice's streams begin.
    begins: Sequence[int]
    # By choice: its mask of legal tokens, and the part of it that holds whatever the rules.
    masks: Mapping[int, Tensor]
    dictated: Mapping[int, Tensor]
    # What the choices' own draws have taught mirostat, [E].
    limits: Tensor | None

    def masks_of(self, counterfactual: Counterfactual) -> Mapping[int, Tensor]:
        """The masks that hold for a plan other than the choice's own."""
        return self.masks if counterfactual.is_constrained else self.dictated
