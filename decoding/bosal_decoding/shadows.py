"""The shadows of explained choices: slots of a second pipeline that follow wherever they go.

Their plans are the choice's own less a rule, or another recipe's; they take the same tokens and
read the same rows, and where the constraint holds they are given the choice's mask.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bosal_decoding.constraints.program import Program
from bosal_decoding.counterfactuals import Counterfactual, Counterfactuals, Without
from bosal_decoding.legality import Legality
from bosal_decoding.opening import Opening
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.plugin_slots import PLUGIN_SECONDS
from bosal_decoding.shadow import Explained, ExplainedRows, Shadow
from bosal_decoding.slots import Slots
from bosal_decoding.stopping import BanMatch
from bosal_kernels import Control, LegalTokens, temperature_of

_FIRST_CAPACITY = 16
# Slots whose memory is kept when nobody is explained.
_KEPT_CAPACITY = 64
# Of a shadow's memory, what each token of the vocabulary takes (its place among those that are
# edited, sets of allowed tokens, breakers, masks), each token of the context (histories, edited
# tokens, bans, limits on surprise, all with room to grow), and what a recipe may weigh.
_TOKEN_BYTES = 7
_POSITION_BYTES = 112
_RECIPE_BYTES = 4 * 1024 * 1024


def shadow_bytes(vocabulary_size: int, context_tokens: int) -> int:
    """The memory that a shadow takes at most, of a model with so many rows in its head."""
    return _TOKEN_BYTES * vocabulary_size + _POSITION_BYTES * context_tokens + _RECIPE_BYTES


class _GivenMasks(Legality):
    """What is legal for shadows: whatever the rows at hand come with."""

    # By slot.
    masks: Mapping[int, Tensor] = {}

    def admit(
        self, slot: int, plan: Plan, program: Program | None, max_tokens: int, opening: Opening
    ) -> None:
        """Hold nothing: the choices themselves hold their constraints."""

    def legal(self, slots: Sequence[int], outputs: Sequence[Sequence[int]]) -> LegalTokens | None:
        held = {place: self.masks[slot] for place, slot in enumerate(slots) if slot in self.masks}
        if not held:
            return None
        bits = torch.stack(list(held.values()))
        return LegalTokens(torch.tensor(list(held), device=bits.device), bits)


class Shadows:
    """The shadows of a pipeline's explained choices; slots are the pipeline's. One thread only.

    A choice that is not explained costs nothing, and every method ignores it.
    """

    def __init__(
        self,
        vocabulary_size: int,
        device: torch.device | str = "cpu",
        *,
        plugin_seconds: float = PLUGIN_SECONDS,
        most: int | None = None,
    ) -> None:
        """Follow choices of a model whose head has `vocabulary_size` rows.

        There are never more than `most` shadows, and no memory for more; unset is without end.
        """
        self._vocabulary_size = vocabulary_size
        self._device = torch.device(device)
        self._plugin_seconds = plugin_seconds
        self._most = most
        self._explained: dict[int, Explained] = {}
        self._capacity = 0
        self._free: list[int] = []
        self._given, self._pipeline = self._open()

    def __getitem__(self, slot: int) -> Explained:
        return self._explained[slot]

    def __contains__(self, slot: int) -> bool:
        return slot in self._explained

    def add(
        self,
        slot: int,
        counterfactuals: Counterfactuals,
        *,
        history: Sequence[int],
        seed: int,
        choice: int,
    ) -> None:
        """Give shadows to the choice that a slot was given to; whoever asks knows that they fit."""
        self.free(slot)

        def shadow(counterfactual: Counterfactual, teacher: Shadow | None = None) -> Shadow:
            return Shadow(counterfactual, history, seed, choice, teacher)

        others = [(other, shadow(other)) for other in counterfactuals.others]
        explained = Explained(
            counterfactuals.plan,
            shadow(counterfactuals.bare),
            [(without, shadow(without)) for without in counterfactuals.without],
            [
                (other, whole, [(without, shadow(without, whole)) for without in other.without])
                for other, whole in others
            ],
            counterfactuals.has_effects,
        )
        shadows = list(explained)
        self._make_room(len(shadows))
        for one in shadows:
            one.slot = self._free.pop()
            one.begin(self._slots)
        self._explained[slot] = explained

    def commit(self, slots: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        """Append the tokens that the choices took."""
        pairs = [
            (shadow.slot, tokens)
            for slot, tokens in zip(slots, token_lists, strict=True)
            for shadow in self._explained.get(slot, ())
        ]
        if pairs:
            self._slots.commit([slot for slot, _ in pairs], [tokens for _, tokens in pairs])

    def rollback(self, slot: int, num_tokens: int) -> None:
        """Take back the last tokens of a choice."""
        for shadow in self._explained.get(slot, ()):
            self._slots.rollback(shadow.slot, num_tokens)
            end = len(self._slots.output(shadow.slot))
            shadow.bans = [ban for ban in shadow.bans if ban[0] <= end]

    def ban(self, slot: int, position: int, token: int, match: BanMatch | None) -> None:
        """Make a token illegal at one position, for all plans that have the rule that bans it.

        Another recipe has it if it bans the same string. Without a match it is any rule that bans.
        """
        explained = self._explained.get(slot)
        if explained is None:
            return
        rule = None if match is None else explained.plan.banning(match)
        for shadow in explained:
            plan, is_own = shadow.counterfactual.plan, shadow.teacher is None
            has_rule = match is None or match.string in plan.banned_strings
            if isinstance(shadow.counterfactual, Without) and is_own:
                has_rule &= shadow.counterfactual.removed != rule
            if has_rule and plan.banned_strings:
                self._slots.ban(shadow.slot, position, token)
                shadow.bans.append((position, token))

    def set_in_constraint(self, slots: Sequence[int], is_inside: Sequence[bool]) -> None:
        """Say which of the choices are inside of their constraint."""
        pairs = [
            (shadow, inside)
            for slot, inside in zip(slots, is_inside, strict=True)
            for shadow in self._explained.get(slot, ())
        ]
        for shadow, inside in pairs:
            shadow.is_in_constraint = inside
        if pairs:
            self._slots.set_in_constraint(
                [shadow.slot for shadow, _ in pairs], [inside for _, inside in pairs]
            )

    def free(self, slot: int) -> None:
        """Let go of a choice."""
        for shadow in self._explained.pop(slot, ()):
            self._slots.free(shadow.slot)
            self._free.append(shadow.slot)
        if not self._explained and self._capacity > _KEPT_CAPACITY:
            self._reopen(0)

    def control(self, rows: ExplainedRows, asked: Sequence[tuple[int, Shadow]]) -> Control:
        """Combine, shape and mask as shadows do, each on the rows of its choice, 0 to E - 1."""
        places = [
            rows.begins[choice] + stream
            for choice, shadow in asked
            for stream in shadow.counterfactual.streams
        ]
        slots = [shadow.slot for _, shadow in asked]
        self._given.masks = {
            shadow.slot: masks[choice]
            for choice, shadow in asked
            if choice in (masks := rows.masks_of(shadow.counterfactual))
        }
        self._teach(rows, asked)
        streams = rows.streams.index_select(
            0, torch.tensor(places, dtype=torch.int64, device=rows.streams.device)
        )
        controlled = self._pipeline.apply(self._pipeline.combine(streams, slots), slots)
        for fault in self._pipeline.take_faults().values():
            raise fault
        return controlled

    def num_tokens(self, shadow: Shadow) -> int:
        """How many tokens a shadow's choice has."""
        return len(self._slots.output(shadow.slot))

    def temperature(self, shadows: Sequence[Shadow]) -> Tensor:
        """The temperature [S] at which shadows draw; 0 reads as 1."""
        index = self._slots.index([shadow.slot for shadow in shadows])
        return temperature_of(self._slots.state, index)

    def draw(self, controlled: Control) -> list[int]:
        """Truncate and draw as shadows do; -1 where nothing is left."""
        tokens: list[int] = self._pipeline.sample(controlled).tokens.tolist()
        return tokens

    def close(self) -> None:
        self._pipeline.close()

    def _teach(self, rows: ExplainedRows, asked: Sequence[tuple[int, Shadow]]) -> None:
        """Tell shadows less a rule what mirostat has learned from whole recipes' draws."""
        less = [one for one in asked if isinstance(one[1].counterfactual, Without)]
        own = [(shadow.slot, choice) for choice, shadow in less if shadow.teacher is None]
        if own and rows.limits is not None:
            limits = rows.limits[[choice for _, choice in own]]
            self._slots.surprise.limit([slot for slot, _ in own], limits)
        # Another recipe learns from draws of its own.
        others = [(one.slot, one.teacher.slot) for _, one in less if one.teacher is not None]
        taught = self._slots.surprise.limits([teacher for _, teacher in others])
        if others and taught is not None:
            self._slots.surprise.limit([slot for slot, _ in others], taught)

    @property
    def _slots(self) -> Slots:
        return self._pipeline.slots

    def _open(self) -> tuple[_GivenMasks, Pipeline]:
        given = _GivenMasks(self._capacity, self._vocabulary_size, self._device)
        pipeline = Pipeline(
            self._vocabulary_size,
            self._capacity,
            device=self._device,
            plugin_seconds=self._plugin_seconds,
            legality=given,
        )
        return given, pipeline

    def _make_room(self, count: int) -> None:
        """Have `count` free slots: move to a pipeline of twice the size, or more, if need be."""
        if len(self._free) >= count:
            return
        used = [shadow for explained in self._explained.values() for shadow in explained]
        outputs = [self._slots.output(shadow.slot) for shadow in used]
        learned = [self._slots.surprise.learned(shadow.slot) for shadow in used]
        needed = len(used) + count
        capacity = max(2 * self._capacity, _FIRST_CAPACITY, needed)
        if self._most is not None:
            if needed > self._most:
                raise ValueError(f"{needed} shadows, of which there may be {self._most}")
            capacity = min(capacity, self._most)
        self._reopen(capacity)
        for shadow in used:
            shadow.slot = self._free.pop()
            shadow.begin(self._slots)
        # Side by side: it takes as long as the longest output, not as all of them.
        self._slots.commit([shadow.slot for shadow in used], outputs)
        for shadow, limits in zip(used, learned, strict=True):
            shadow.resume(self._slots)
            if limits is not None:
                self._slots.surprise.restore(shadow.slot, limits)

    def _reopen(self, capacity: int) -> None:
        """Begin with an empty pipeline of another size."""
        self._pipeline.close()
        # An empty one first, so that the old and the new are never there together.
        for self._capacity in (0, capacity):
            self._given, self._pipeline = self._open()
        self._free = list(range(capacity - 1, -1, -1))
