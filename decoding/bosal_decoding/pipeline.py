"""The decoding state of a running batch: one slot per choice, one batched call per step.

Rule 1: rows of a head beyond the vocabulary are -inf before anything else sees them.
Rule 2: what a step does to a choice depends on its plan, its history, its output and its seed,
never on its neighbours, its slot or how its output was committed.
"""

from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from bosal_decoding.constraints.constrained_slot import Verdict
from bosal_decoding.constraints.program import Program
from bosal_decoding.constraints.slots import ConstraintSlots
from bosal_decoding.dictation import Dictation
from bosal_decoding.errors import PluginFault, VocabularyMismatch
from bosal_decoding.fused_draw import Backend, FusedDraw, backend_of
from bosal_decoding.limits import MAX_TOKENS
from bosal_decoding.opening import UNOPENED, Opening
from bosal_decoding.plan import Plan
from bosal_decoding.plugin_slots import PLUGIN_SECONDS, PluginSlots
from bosal_decoding.sentences import ends_sentence
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import (
    YIELDED_BANS,
    YIELDED_MIN_TOKENS,
    YIELDED_PLAUSIBILITY,
    YIELDED_REPEATS,
    Combined,
    CombineState,
    Control,
    LegalTokens,
    Logprobs,
    Selection,
    SlotState,
    certainty,
    combine,
    control,
    merged,
    score,
    select,
    temperature_of,
)

# What stands behind a sentence's mark (quotes, brackets, line breaks) is shorter than this.
_TAIL_TOKENS: Final = 16


class Pipeline:
    """Batch state over the slots of one model; used by one thread."""

    # Whether a plan's constraint is in force; shadows of other choices leave it to those.
    holds_constraints = True

    def __init__(
        self,
        vocabulary_size: int,
        num_slots: int,
        device: torch.device | str = "cpu",
        *,
        plugin_seconds: float = PLUGIN_SECONDS,
        backend: Backend | None = None,
    ) -> None:
        """Hold `num_slots` choices for a model whose head has `vocabulary_size` rows.

        A step waits so long for each plug-in. `backend` executes draws; unset is the device's own.
        """
        self.backend = backend_of(device) if backend is None else backend
        is_fused = self.backend == "triton"
        self._state = SlotState(
            num_slots=num_slots,
            vocab_size=vocabulary_size,
            device=device,
            packs_touched=is_fused,
        )
        self._coupling = CombineState(num_slots, device)
        self._fused = FusedDraw(self._state, self._coupling) if is_fused else None
        self._vocabulary_size = vocabulary_size
        # Tokens that exist; the rows of the head behind them are padding.
        self._num_tokens = vocabulary_size
        self._outputs: list[list[int]] = [[] for _ in range(num_slots)]
        # Of the slots whose rules ask whether the output ends a sentence.
        self._readers: dict[int, Vocabulary] = {}
        self._constraints = ConstraintSlots(num_slots, vocabulary_size, device)
        self._plugins = PluginSlots(plugin_seconds)
        self._dictation = Dictation(num_slots, vocabulary_size, device)

    def output(self, slot: int) -> tuple[int, ...]:
        """The tokens committed to a slot."""
        return tuple(self._outputs[slot])

    def add(
        self,
        slot: int,
        plan: Plan,
        *,
        history: Sequence[int],
        seed: int,
        choice: int,
        logprobs: int = -1,
        program: Program | None = None,
        max_tokens: int = MAX_TOKENS,
        opening: Opening = UNOPENED,
    ) -> None:
        """Give a slot to a new choice; nothing of the previous one remains.

        `program` is the plan's constraint, compiled; it ends the text within `max_tokens`.
        `opening` is what the output begins with: `take_forced` commits its tokens.
        """
        if self.holds_constraints and (program is None) != (plan.recipe.constraint is None):
            raise ValueError("a plan with a constraint goes with its program, another with none")
        if plan.vocabulary.size > self._vocabulary_size:
            raise VocabularyMismatch(plan.vocabulary.size, self._vocabulary_size)
        self._num_tokens = plan.vocabulary.size
        params = plan.slot_params(seed=seed, choice=choice, logprobs=logprobs)
        self._state.admit(
            slot, params, plan.touched(history), instruction=history, breakers=plan.breakers
        )
        self._coupling.admit(slot, plan.coupling)
        if self._fused is not None:
            self._fused.admit(slot, params, plan.coupling)
        self._plugins.admit(slot, plan.plugins, history)
        self._outputs[slot] = []
        self._readers.pop(slot, None)
        if plan.waits_for_sentences:
            self._readers[slot] = plan.vocabulary
        self._dictation.add(slot, plan.vocabulary, opening)
        self._constraints.free(slot)
        if program is not None:
            self._constraints.add(slot, program, max_tokens, plan.eos_ids)
            self.set_in_constraint([slot], [True])
            constraint = plan.recipe.constraint
            brackets = [plan.vocabulary.ids_of(bracket) for bracket in "]}"]
            if constraint is not None and constraint.rules_in_strings and all(brackets):
                self._constraints.watch_text(slot, (brackets[0][0], brackets[1][0]))

    def start_masks(self, slots: Sequence[int]) -> None:
        """Begin to fill the constraints' masks of slots, to call before the model runs."""
        self._constraints.start(slots)

    def num_streams(self, slot: int) -> int:
        """How many rows a slot's group has."""
        return self._coupling.num_streams(slot)

    def combine(self, rows: Tensor, slots: Sequence[int]) -> Combined:
        """Combine the slots' stream rows [R, V], group after group, into one row each [B, V].

        Rows are float32, contiguous and the pipeline's until `apply` is done.
        """
        # The padding of a head counts in no stream's normaliser.
        rows[:, self._num_tokens :] = -torch.inf
        return self._combine(rows, slots)

    def draw(
        self, rows: Tensor, slots: Sequence[int], forced: Sequence[int] | None = None
    ) -> tuple[Selection, Tensor]:
        """Combine, apply and sample in one: the selection, and where streams had a say, [B] bool.

        Rows are as for `combine`. The kernels draw for the slots that they serve, where this is
        their backend; the torch path draws for the others and for rows where rules may yield.
        """
        if self._fused is None:
            return self._draw(rows, slots, forced)
        fused = self._fused
        counts = [self.num_streams(slot) for slot in slots]
        begins = list(accumulate(counts[:-1], initial=0))
        wishes = [-1] * len(slots) if forced is None else forced
        served = [
            i
            for i, slot in enumerate(slots)
            if fused.serves(slot) and not self._plugins.are_used([slot])
        ]
        parts: list[tuple[Sequence[int], Selection, Tensor]] = []
        left = sorted(set(range(len(slots))) - set(served))
        if served:
            own = [slots[i] for i in served]
            selection, is_left = fused.draw(
                rows,
                [begins[i] for i in served],
                own,
                self._legal(own),
                num_tokens=self._num_tokens,
                forced=None if forced is None else [wishes[i] for i in served],
            )
            parts.append((served, selection, fused.acts(own)))
            left = sorted([*left, *(i for i, one in zip(served, is_left, strict=True) if one)])
        if left:
            taken = [begins[i] + stream for i in left for stream in range(counts[i])]
            own = [slots[i] for i in left]
            given = None if forced is None else [wishes[i] for i in left]
            parts.append((left, *self._draw(rows[self._index(taken)], own, given)))
        return merged(parts, len(slots))

    def _draw(
        self, rows: Tensor, slots: Sequence[int], forced: Sequence[int] | None
    ) -> tuple[Selection, Tensor]:
        """Draw by the torch path."""
        combined = self.combine(rows, slots)
        selection = self.sample(self.apply(combined, slots), forced)
        acted = combined.acted
        return selection, torch.zeros_like(selection.invalid) if acted is None else acted

    def apply(self, logits: Tensor | Combined, slots: Sequence[int]) -> Control:
        """Shape and mask rows [B, V] (float32, contiguous, changed in place)."""
        if isinstance(logits, Tensor):
            logits[:, self._num_tokens :] = -torch.inf
            return self._control(logits, slots)
        controlled = self._control(logits.rows, slots, logits)
        if logits.masked:
            self._relax(controlled, logits, slots)
        return controlled

    def _control(
        self, rows: Tensor, slots: Sequence[int], combined: Combined | None = None
    ) -> Control:
        if self._plugins.are_used(slots):
            combined = self._plug_in(rows, slots, combined)
        return control(
            rows,
            self._state,
            self._index(slots),
            self._legal(slots),
            combined=combined,
        )

    def _plug_in(self, rows: Tensor, slots: Sequence[int], combined: Combined | None) -> Combined:
        """Let plug-ins change rows [B, V] in place; the model's own rows are kept beside."""
        if combined is None or not combined.is_coupled:
            # Gates read them, and so do log-probabilities.
            combined = Combined(
                rows=rows,
                acted=torch.zeros(len(rows), dtype=torch.bool, device=rows.device),
                streams=rows.clone(),
                base=torch.arange(len(rows), device=rows.device),
                masked=(),
            )
        sure = None
        if self._plugins.is_gated(slots):
            top1, entropy = certainty(combined.streams, combined.base)
            sure = (top1.tolist(), entropy.tolist())
        self._plugins.edit(
            rows[:, : self._num_tokens],
            slots,
            [tuple(self._outputs[slot]) for slot in slots],
            self._state.in_constraint[self._index(slots)].tolist(),
            sure,
        )
        return combined

    def take_faults(self) -> dict[int, PluginFault]:
        """Return the slots whose plug-in failed since the last call; their rows are not edited."""
        return self._plugins.take_faults()

    def take_plugin_seconds(self) -> dict[str, float]:
        """Return what the plug-ins of the batches since the last call took, by rule."""
        return self._plugins.take_seconds()

    def take_fill_seconds(self) -> float:
        """Return what filling the constraints' masks took since the last call."""
        return self._constraints.take_fill_seconds()

    def _legal(self, slots: Sequence[int]) -> LegalTokens | None:
        """The masks of slots: what is dictated, and what the constraints allow."""
        legal = self._constraints.legal(slots)
        in_text = self._constraints.in_text(slots)
        if in_text:
            self.set_in_constraint(list(in_text), [not one for one in in_text.values()])
        return self._dictation.within(legal, slots, self._outputs)

    def _combine(self, rows: Tensor, slots: Sequence[int], *, is_masking: bool = True) -> Combined:
        return combine(
            rows,
            self._coupling,
            self._state,
            slots,
            is_masking=is_masking,
        )

    def _relax(self, controlled: Control, combined: Combined, slots: Sequence[int]) -> None:
        """Control rows again without what the base held implausible, where nothing else is left.

        Plausibility yields before any rule does.
        """
        is_empty = (controlled.yielded != 0) | (controlled.row_max == -torch.inf)
        is_empty &= ~controlled.invalid
        masked = set(combined.masked)
        places = [i for i in is_empty.nonzero().squeeze(1).tolist() if i in masked]
        if not places:
            return
        own = [slots[i] for i in places]
        rows = [
            int(combined.base[i]) + stream
            for i in places
            for stream in range(self._coupling.num_streams(slots[i]))
        ]
        again = self._combine(combined.streams[self._index(rows)], own, is_masking=False)
        again_controlled = self._control(again.rows, own, again)
        where = self._index(places)
        for ours, theirs in (
            (controlled.logits, again_controlled.logits),
            (controlled.group_max, again_controlled.group_max),
            (controlled.row_max, again_controlled.row_max),
            (controlled.yielded, again_controlled.yielded | YIELDED_PLAUSIBILITY),
            (controlled.invalid, again_controlled.invalid),
        ):
            ours[where] = theirs

    def sample(self, controlled: Control, forced: Sequence[int] | None = None) -> Selection:
        """Truncate and draw one token per row, with the log-probabilities that were asked for.

        A forced token, -1 for none, is taken instead where it is legal.
        """
        tokens = None if forced is None else self._index(forced)
        return select(controlled, self._state, controlled.slots, tokens)

    def certainty(self, combined: Combined, places: Sequence[int]) -> tuple[list[float], list[int]]:
        """Of the base's rows at some places, the greatest probability and its token."""
        where = combined.base[self._index(places)]
        top1, _ = certainty(combined.streams, where)
        best = combined.streams.index_select(0, where).argmax(1)
        return top1.tolist(), best.tolist()

    def score(self, controlled: Control, tokens: Sequence[int]) -> Logprobs:
        """Return the log-probabilities of given tokens [B], of the slots that report any."""
        return score(controlled, self._state, self._index(tokens))

    def surprise_limits(self, slots: Sequence[int]) -> Tensor | None:
        """Mirostat's limits [B] at the slots' positions; None where no slot has one."""
        if not self._state.mirostat.is_used:
            return None
        index = self._index(slots)
        return self._state.mirostat.at(index, self._state.position[index])

    def limit_surprise(self, slots: Sequence[int], limits: Tensor) -> None:
        """Give slots the limits [B] that others have learned from the same output."""
        index = self._index(slots)
        self._state.mirostat.put(index, self._state.position[index], limits)

    def temperature(self, slots: Sequence[int]) -> Tensor:
        """The temperature [B] at which the rows of slots are drawn; 0 reads as 1."""
        return temperature_of(self._state, self._index(slots))

    def commit(self, slots: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        """Append tokens to the outputs of distinct slots."""
        pairs = list(zip(slots, token_lists, strict=True))
        for depth in range(max((len(tokens) for tokens in token_lists), default=0)):
            deep = [(slot, tokens[depth]) for slot, tokens in pairs if depth < len(tokens)]
            self._state.advance(
                self._index([slot for slot, _ in deep]), self._index([token for _, token in deep])
            )
        for slot, tokens in pairs:
            self._outputs[slot].extend(tokens)
            self._constraints.commit(slot, tokens)
        self._read(slots)

    def rollback(self, slot: int, num_tokens: int) -> None:
        """Take back the last tokens of a slot, as if they had never been committed.

        Bans at positions that lie behind the new end go with them.
        """
        output = self._outputs[slot]
        if not 0 <= num_tokens <= len(output):
            raise ValueError(f"cannot take back {num_tokens} of {len(output)} tokens")
        if num_tokens:
            self._state.retract(slot, output[-num_tokens:])
            del output[-num_tokens:]
            self._plugins.rollback(slot)
            self._read([slot])
            self._constraints.rollback(slot, num_tokens)
            self._dictation.rollback(slot, len(output))

    def settle(self, slot: int) -> Verdict:
        """What the constraint says of a slot after its last token.

        After RETRACT, `retract` takes that token back and forces a completion that fits. Nothing is
        said while something is dictated, which the constraint allows.
        """
        if self._dictation.binds(slot, self._outputs[slot]):
            return Verdict.GO_ON
        return self._constraints.settle(slot)

    def dictate(self, slot: int, vocabulary: Vocabulary, tokens: Sequence[int]) -> None:
        """Let tokens come next in a slot, whatever the model thinks."""
        self._dictation.dictate(slot, vocabulary, len(self._outputs[slot]), tokens)

    def take_forced(self, slot: int) -> list[int]:
        """Commit the tokens that must follow in a slot, all at once, and return them.

        Who does not take them gets them one by one, as the only legal token of each step.
        """
        tokens = self.pending(slot) or self._constraints.forced(slot)
        if tokens:
            self.commit([slot], [tokens])
        return tokens

    def pending(self, slot: int) -> list[int]:
        """The tokens that are dictated to a slot and did not come yet."""
        return list(self._dictation.pending(slot, len(self._outputs[slot])))

    def retract(self, slot: int) -> bool:
        """Take back the last token of a slot whose constraint asked for it.

        Returns whether the text is complete without it.
        """
        close = self._constraints.fallback(slot)
        self.rollback(slot, 1)
        self._constraints.force(slot, close)
        return not close

    def in_force(self, slot: int, rules: Collection[int]) -> frozenset[int]:
        """Which of some rules, by place in the recipe, were in force at a slot's last step."""
        if not rules:
            return frozenset()
        row = self._state.active[slot].tolist()
        return frozenset(rule for rule in rules if row[rule])

    def is_in_constraint(self, slot: int) -> bool:
        return bool(self._state.in_constraint[slot])

    def was_forced(self, slot: int) -> bool:
        """Whether the last token of a slot was not the model's choice."""
        last = len(self._outputs[slot]) - 1
        return bool(self._dictation.pending(slot, last)) or self._constraints.was_forced(slot)

    def blocked(self, slot: int) -> Verdict:
        """Whether it was the constraint that left a slot without a legal token."""
        return self._constraints.blocked(slot)

    def is_legal(self, slot: int, token: int) -> bool:
        """Whether a slot's constraint allows a token next, by the mask that is in force."""
        return self._constraints.is_legal(slot, token)

    def is_whole(self, slot: int) -> bool:
        """Whether a slot has a constraint which its output satisfies."""
        return self._constraints.is_accepting(slot)

    def lift_constraint(self, slot: int) -> None:
        """Let a slot go on without its constraint."""
        self._constraints.free(slot)
        self.set_in_constraint([slot], [False])

    def ban(self, slot: int, position: int, token: int) -> None:
        """Make a token illegal at one output position of a slot."""
        self._state.ban_at(slot, position, [token])

    def set_in_constraint(self, slots: Sequence[int], is_inside: Sequence[bool]) -> None:
        """Say which of the slots are inside of their constraint from the next step on.

        Rules may be limited to one side of it; a fresh slot is outside.
        """
        inside = torch.tensor(is_inside, dtype=torch.bool, device=self._state.device)
        self._state.in_constraint[self._index(slots)] = inside

    def free(self, slot: int) -> None:
        """Return a slot."""
        self._state.free(slot)
        self._coupling.admit(slot, None)
        self._outputs[slot] = []
        self._readers.pop(slot, None)
        self._constraints.free(slot)
        self._plugins.free(slot)
        self._dictation.free(slot)

    def close(self) -> None:
        """Let go of the threads that fill masks and run plug-ins."""
        self._constraints.close()
        self._plugins.close()

    def _read(self, slots: Sequence[int]) -> None:
        """Look whether outputs end a sentence, for the slots that want to know."""
        reading = [slot for slot in slots if slot in self._readers]
        if not reading:
            return
        tails = (
            self._readers[slot].bytes_of(self._outputs[slot][-_TAIL_TOKENS:]) for slot in reading
        )
        ends = [ends_sentence(tail.decode(errors="ignore")) for tail in tails]
        self._state.at_sentence_end[self._index(reading)] = torch.tensor(
            ends, device=self._state.device
        )

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._state.device)


def yielded_rules(bits: int) -> tuple[str, ...]:
    """The rules that gave way in a row of `Selection.yielded`, in the step contract's order."""
    names = (
        (YIELDED_PLAUSIBILITY, "plausibility"),
        (YIELDED_MIN_TOKENS, "min_tokens"),
        (YIELDED_REPEATS, "no_repeat_ngram"),
        (YIELDED_BANS, "banned_strings"),
    )
    return tuple(name for bit, name in names if bits & bit)
