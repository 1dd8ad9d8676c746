"""Explains draws of a running batch: every explained choice has shadows, slots of a second
pipeline whose plans are its own less a rule, and which take the same tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bosal_decoding.counterfactuals import Counterfactuals, Without
from bosal_decoding.explanation import Explanation, RuleEffect
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.plan import Plan
from bosal_decoding.rules import RuleStage
from bosal_kernels import Control, row_shift

# Rows of counterfactuals computed at a time.
_ROWS = 64
_FIRST_CAPACITY = 16


class _ShadowPipeline(Pipeline):
    """Slots of recipes less a rule; the choices themselves hold their constraints."""

    holds_constraints = False


@dataclass(slots=True, eq=False)
class _Shadow:
    """One slot of the second pipeline, with what it takes to begin it again elsewhere."""

    plan: Plan
    history: Sequence[int]
    seed: int
    choice: int
    slot: int = -1
    bans: list[tuple[int, int]] = field(default_factory=list)
    is_in_constraint: bool = False

    def begin(self, pipeline: Pipeline, output: Sequence[int]) -> None:
        pipeline.add(self.slot, self.plan, history=self.history, seed=self.seed, choice=self.choice)
        pipeline.commit([self.slot], [output])
        for position, token in self.bans:
            pipeline.ban(self.slot, position, token)
        pipeline.set_in_constraint([self.slot], [self.is_in_constraint])


@dataclass(slots=True, eq=False)
class _Explained:
    """The shadows of one choice."""

    bare: _Shadow
    without: list[tuple[Without, _Shadow]]

    def __iter__(self) -> Iterator[_Shadow]:
        yield self.bare
        for _, shadow in self.without:
            yield shadow


@dataclass(frozen=True, slots=True)
class _Question:
    """One leave-one-out row: what would `shadow` make of an explained row?"""

    row: int
    without: Without
    shadow: _Shadow
    is_drawn: bool


class Explainer:
    """The shadows of a pipeline's explained choices; slots are the pipeline's. One thread only.

    A choice that is not explained costs nothing, and every method ignores it.
    """

    def __init__(self, vocabulary_size: int, device: torch.device | str = "cpu") -> None:
        """Explain choices of a model whose head has `vocabulary_size` rows."""
        self._vocabulary_size = vocabulary_size
        self._device = torch.device(device)
        self._explained: dict[int, _Explained] = {}
        self._pipeline: Pipeline = _ShadowPipeline(vocabulary_size, 0, device=device)
        self._capacity = 0
        self._free: list[int] = []

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
        """Explain the choice that a slot was given to."""
        self.free(slot)

        def shadow(plan: Plan) -> _Shadow:
            return _Shadow(plan, history, seed, choice)

        explained = _Explained(
            shadow(counterfactuals.bare),
            [(without, shadow(without.plan)) for without in counterfactuals.without],
        )
        shadows = list(explained)
        self._make_room(len(shadows))
        for one in shadows:
            one.slot = self._free.pop()
            one.begin(self._pipeline, ())
        self._explained[slot] = explained

    def commit(self, slots: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        """Append the tokens that the choices took."""
        pairs = [
            (shadow.slot, tokens)
            for slot, tokens in zip(slots, token_lists, strict=True)
            for shadow in self._explained.get(slot, ())
        ]
        if pairs:
            self._pipeline.commit([slot for slot, _ in pairs], [tokens for _, tokens in pairs])

    def rollback(self, slot: int, num_tokens: int) -> None:
        """Take back the last tokens of a choice."""
        for shadow in self._explained.get(slot, ()):
            self._pipeline.rollback(shadow.slot, num_tokens)
            end = len(self._pipeline.output(shadow.slot))
            shadow.bans = [ban for ban in shadow.bans if ban[0] <= end]

    def ban(self, slot: int, position: int, token: int) -> None:
        """Make a token illegal at one position, wherever the rule that bans it is in force."""
        for shadow in self._explained.get(slot, ()):
            if shadow.plan.banned_strings:
                self._pipeline.ban(shadow.slot, position, token)
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
            self._pipeline.set_in_constraint(
                [shadow.slot for shadow, _ in pairs], [inside for _, inside in pairs]
            )

    def free(self, slot: int) -> None:
        """Let go of a choice."""
        for shadow in self._explained.pop(slot, ()):
            self._pipeline.free(shadow.slot)
            self._free.append(shadow.slot)

    def explain(
        self,
        raw: Tensor,
        controlled: Tensor,
        temperature: Tensor,
        slots: Sequence[int],
        tokens: Sequence[int],
    ) -> list[Explanation]:
        """Explain the draws of explained choices, before they are committed.

        Rows [E, V] of the base stream (changed in place beyond the vocabulary) and after control,
        the temperature [E] of the draws, and the tokens drawn, none of them -1.
        """
        chosen = torch.tensor(tokens, dtype=torch.int64, device=raw.device)
        # Without a rule only the head's padding changes.
        bare = self._pipeline.apply(raw, [self._explained[slot].bare.slot for slot in slots])
        uncontrolled = self._pipeline.sample(bare).tokens
        shift = row_shift(raw, controlled, 1.0 / temperature, chosen)
        effects = self._effects(raw, controlled, slots, chosen, uncontrolled)
        columns = zip(
            tokens,
            shift.raw_logprob.tolist(),
            shift.raw_rank.tolist(),
            shift.controlled_logprob.tolist(),
            shift.controlled_rank.tolist(),
            shift.entropy.tolist(),
            shift.divergence.tolist(),
            shift.raw_argmax.tolist(),
            uncontrolled.tolist(),
            effects,
            strict=True,
        )
        return [
            Explanation(
                token=token,
                raw_logprob=raw_logprob,
                raw_rank=raw_rank,
                controlled_logprob=logprob,
                controlled_rank=rank,
                entropy=entropy,
                divergence=divergence,
                raw_argmax=raw_argmax,
                uncontrolled_token=uncontrolled_token,
                effects=tuple(found),
            )
            for (
                token,
                raw_logprob,
                raw_rank,
                logprob,
                rank,
                entropy,
                divergence,
                raw_argmax,
                uncontrolled_token,
                found,
            ) in columns
        ]

    def _effects(
        self,
        raw: Tensor,
        controlled: Tensor,
        slots: Sequence[int],
        chosen: Tensor,
        uncontrolled: Tensor,
    ) -> list[list[RuleEffect]]:
        """Ask what every rule did to every row."""
        is_changed = (chosen != uncontrolled).tolist()
        questions = [
            _Question(row, without, shadow, is_changed[row])
            for row, slot in enumerate(slots)
            for without, shadow in self._explained[slot].without
            # What truncates changes no logit: only a draw can tell.
            if is_changed[row] or without.stage is not RuleStage.TRUNCATE
        ]
        found: list[list[RuleEffect]] = [[] for _ in slots]
        pair = torch.stack((chosen, uncontrolled), 1)
        for wave in _waves(questions):
            for question, effect in zip(
                wave, self._answers(raw, controlled, pair, wave), strict=True
            ):
                if effect is not None:
                    found[question.row].append(effect)
        return found

    def _answers(
        self, raw: Tensor, controlled: Tensor, pair: Tensor, wave: Sequence[_Question]
    ) -> list[RuleEffect | None]:
        """Answer questions that are all drawn or all not; None: the rule did nothing."""
        rows = torch.tensor([question.row for question in wave], device=raw.device)
        without = self._pipeline.apply(
            raw.index_select(0, rows), [question.shadow.slot for question in wave]
        )
        tokens = pair[rows]
        before = without.logits.gather(1, tokens)
        after = controlled[rows[:, None], tokens]
        change = torch.where(after == before, 0.0, after - before)
        masked = self._num_masked(controlled, without, wave)
        drawn = [-1] * len(wave)
        if wave[0].is_drawn:
            drawn = self._pipeline.sample(without).tokens.tolist()
        answers: list[RuleEffect | None] = []
        columns = zip(wave, tokens.tolist(), change.tolist(), masked, drawn, strict=True)
        for question, (chosen, uncontrolled), (on_chosen, on_uncontrolled), count, token in columns:
            decides = token >= 0 and token != chosen
            did_something = on_chosen or on_uncontrolled or count or decides
            answers.append(
                RuleEffect(
                    rule=question.without.rule,
                    on_chosen=on_chosen,
                    on_uncontrolled=on_uncontrolled,
                    masked_tokens=count,
                    token_without=token if token >= 0 else None,
                    flips=decides and token == uncontrolled,
                )
                if did_something
                else None
            )
        return answers

    @staticmethod
    def _num_masked(controlled: Tensor, without: Control, wave: Sequence[_Question]) -> list[int]:
        """How many tokens each question's rule masks alone; shaping masks nothing."""
        counts = [0] * len(wave)
        masking = [
            place
            for place, question in enumerate(wave)
            if question.without.stage not in (RuleStage.SHAPE, RuleStage.TRUNCATE)
        ]
        for place in masking:
            lifted = (without.logits[place] > -torch.inf) & (
                controlled[wave[place].row] == -torch.inf
            )
            counts[place] = int(lifted.sum())
        return counts

    def _make_room(self, count: int) -> None:
        """Have `count` free slots: move to a pipeline of at least twice the size if need be."""
        if len(self._free) >= count:
            return
        used = [shadow for explained in self._explained.values() for shadow in explained]
        outputs = [self._pipeline.output(shadow.slot) for shadow in used]
        self._capacity = max(2 * self._capacity, _FIRST_CAPACITY, len(used) + count)
        self._pipeline = _ShadowPipeline(self._vocabulary_size, self._capacity, device=self._device)
        self._free = list(range(self._capacity - 1, len(used) - 1, -1))
        for slot, (shadow, output) in enumerate(zip(used, outputs, strict=True)):
            shadow.slot = slot
            shadow.begin(self._pipeline, output)


def _waves(questions: Iterable[_Question]) -> Iterator[list[_Question]]:
    """Cut questions into batches of bounded memory, drawn ones apart from the others."""
    for is_drawn in (True, False):
        alike = [question for question in questions if question.is_drawn is is_drawn]
        for start in range(0, len(alike), _ROWS):
            yield alike[start : start + _ROWS]
