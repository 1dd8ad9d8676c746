"""Explains draws: asks the shadows of explained choices what they make of the same rows."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bosal_decoding.counterfactuals import Without
from bosal_decoding.explanation import Explanation, OtherDraw, RuleEffect
from bosal_decoding.plan import Plan
from bosal_decoding.rules import RuleStage
from bosal_decoding.shadow import ExplainedRows, Shadow
from bosal_decoding.shadows import Shadows
from bosal_kernels import Control, LegalTokens, row_shift

# Rows of counterfactuals computed at a time; each call has its price, whatever its size.
_ROWS = 128
# No divergence is so large unless one side forbids what the other allows.
_FORBIDDEN = 1e9


@dataclass(frozen=True, slots=True)
class _Question:
    """One leave-one-out row: what would `shadow` make of an explained row?"""

    row: int
    plan: Plan
    without: Without
    shadow: Shadow
    is_drawn: bool


class Explainer:
    """Explains the draws of the choices that have shadows."""

    def __init__(self, shadows: Shadows) -> None:
        self._shadows = shadows

    def explain(
        self,
        rows: ExplainedRows,
        controlled: Tensor,
        temperature: Tensor,
        slots: Sequence[int],
        tokens: Sequence[int],
    ) -> list[Explanation]:
        """Explain the draws of explained choices, before they are committed.

        The choices' rows before control and after it [E, V], the temperature [E] of the draws, and
        the tokens drawn, none of them -1.
        """
        chosen = torch.tensor(tokens, dtype=torch.int64, device=controlled.device)
        bare = self._shadows.control(
            rows, [(row, self._shadows[slot].bare) for row, slot in enumerate(slots)]
        )
        uncontrolled = torch.tensor(self._shadows.draw(bare), device=controlled.device)
        # Without a rule only the head's padding changes.
        raw = bare.logits
        shift = row_shift(raw, controlled, 1.0 / temperature, chosen)
        effects = self._effects(rows, controlled, slots, chosen, uncontrolled)
        others = self._others(rows, controlled, temperature, slots, tokens)
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
            others,
            _forbidden_mass(raw, rows.masks),
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
                others=tuple(met),
                forbidden_mass=mass,
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
                met,
                mass,
            ) in columns
        ]

    def _effects(
        self,
        rows: ExplainedRows,
        controlled: Tensor,
        slots: Sequence[int],
        chosen: Tensor,
        uncontrolled: Tensor,
    ) -> list[list[RuleEffect]]:
        """Ask what every rule did to every row."""
        is_changed = (chosen != uncontrolled).tolist()
        questions = [
            _Question(row, self._shadows[slot].plan, without, shadow, is_changed[row])
            for row, slot in enumerate(slots)
            if self._shadows[slot].has_effects
            for without, shadow in self._shadows[slot].without
            # What truncates changes no logit: only a draw can tell.
            if is_changed[row] or without.stage is not RuleStage.TRUNCATE
        ]
        found: list[list[RuleEffect]] = [[] for _ in slots]
        pair = torch.stack((chosen, uncontrolled), 1)
        for wave in _waves(questions):
            for question, effect in zip(
                wave, self._answers(rows, controlled, pair, wave), strict=True
            ):
                if effect is not None:
                    found[question.row].append(effect)
        return found

    def _answers(
        self, rows: ExplainedRows, controlled: Tensor, pair: Tensor, wave: Sequence[_Question]
    ) -> list[RuleEffect | None]:
        """Answer questions that are all drawn or all not; None: the rule did nothing."""
        without = self._shadows.control(
            rows, [(question.row, question.shadow) for question in wave]
        )
        places = torch.tensor([question.row for question in wave], device=controlled.device)
        tokens = pair[places]
        before = without.logits.gather(1, tokens)
        after = controlled[places[:, None], tokens]
        change = torch.where(after == before, 0.0, after - before)
        masked = self._num_masked(controlled, without, wave)
        drawn = [-1] * len(wave)
        if wave[0].is_drawn:
            drawn = self._shadows.draw(without)
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
                    stream=self._mover(rows, question, chosen, uncontrolled),
                )
                if did_something
                else None
            )
        return answers

    def _mover(
        self, rows: ExplainedRows, question: _Question, chosen: int, uncontrolled: int
    ) -> str:
        """Name the stream beside the base that did most to lift the token over the other."""
        plan = question.plan
        if question.without.stage is not RuleStage.COMBINE or chosen == uncontrolled:
            return ""
        if plan.coupling is None:
            return ""
        begin = rows.begins[question.row]
        gains = plan.coupling.gains(
            rows.streams[begin : begin + plan.num_streams],
            self._shadows.num_tokens(question.shadow),
            chosen,
            uncontrolled,
        )
        return plan.streams[max(range(1, len(gains)), key=gains.__getitem__)].role

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

    def _others(
        self,
        rows: ExplainedRows,
        controlled: Tensor,
        temperature: Tensor,
        slots: Sequence[int],
        tokens: Sequence[int],
    ) -> list[list[OtherDraw]]:
        """Draw as the recipes that choices are compared with, on the choices' own rows."""
        places = [
            (row, other, shadow, without)
            for row, slot in enumerate(slots)
            for other, shadow, without in self._shadows[slot].others
        ]
        drawn, doses = self._doses(
            rows, controlled, temperature, [(row, shadow) for row, _, shadow, _ in places]
        )
        asked: list[tuple[int, str, int]] = []  # place, rule, the token that makes it the reason
        questions: list[tuple[int, Shadow]] = []
        for place, (row, other, _, without) in enumerate(places):
            if drawn[place] == tokens[row]:
                continue
            own = self._shadows[slots[row]].without
            for one, shadow in [own[index] for index in other.own]:
                asked.append((place, one.rule, drawn[place]))
                questions.append((row, shadow))
            for one, shadow in without:
                asked.append((place, one.rule, tokens[row]))
                questions.append((row, shadow))
        reasons: dict[int, list[str]] = {}
        for (place, rule, token), answer in zip(asked, self._draws(rows, questions), strict=True):
            if answer == token:
                reasons.setdefault(place, []).append(rule)
        found: list[list[OtherDraw]] = [[] for _ in slots]
        for place, (row, _, _, _) in enumerate(places):
            rules = tuple(dict.fromkeys(reasons.get(place, ())))
            token_or_none = drawn[place] if drawn[place] >= 0 else None
            draw = OtherDraw(token=token_or_none, rules=rules, divergence=doses[place])
            found[row].append(draw)
        return found

    def _doses(
        self,
        rows: ExplainedRows,
        controlled: Tensor,
        temperature: Tensor,
        asked: Sequence[tuple[int, Shadow]],
    ) -> tuple[list[int], list[float]]:
        """What other recipes draw on rows of explained choices, and how far from them these are."""
        drawn: list[int] = []
        doses: list[float] = []
        for start in range(0, len(asked), _ROWS):
            wave = asked[start : start + _ROWS]
            other = self._shadows.control(rows, wave)
            drawn += self._shadows.draw(other)
            places = torch.tensor([row for row, _ in wave], device=controlled.device)
            ours, inverse = controlled[places], 1.0 / temperature[places]
            theirs = self._shadows.temperature([shadow for _, shadow in wave])
            scaled = other.logits / theirs[:, None].to(other.logits.dtype)
            divergence = row_shift(scaled, ours, inverse, ours.argmax(1)).divergence
            doses += [one if one < _FORBIDDEN else math.inf for one in divergence.tolist()]
        return drawn, doses

    def _draws(self, rows: ExplainedRows, asked: Sequence[tuple[int, Shadow]]) -> list[int]:
        """What shadows draw on the rows of explained choices; -1 where nothing is left."""
        drawn: list[int] = []
        for start in range(0, len(asked), _ROWS):
            drawn += self._shadows.draw(self._shadows.control(rows, asked[start : start + _ROWS]))
        return drawn


def _forbidden_mass(raw: Tensor, masks: Mapping[int, Tensor]) -> list[float]:
    """The probability that rows [E, V] give to what the masks of some of them forbid."""
    mass = [0.0] * len(raw)
    if masks:
        places = torch.tensor(list(masks), device=raw.device)
        kept = raw.index_select(0, places)
        whole = kept.logsumexp(1)
        bits = torch.stack(list(masks.values()))
        LegalTokens(torch.arange(len(masks), device=raw.device), bits).forbid(kept)
        lost = 1.0 - (kept.logsumexp(1) - whole).exp()
        for place, value in zip(masks, lost.clamp(min=0.0).tolist(), strict=True):
            mass[place] = value
    return mass


def _waves(questions: Iterable[_Question]) -> Iterator[list[_Question]]:
    """Cut questions into batches of bounded memory, drawn ones apart from the others."""
    for is_drawn in (True, False):
        alike = [question for question in questions if question.is_drawn is is_drawn]
        for start in range(0, len(alike), _ROWS):
            yield alike[start : start + _ROWS]
