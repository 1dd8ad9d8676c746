"""What a pipeline keeps for its choices: one slot each, from admission to the end."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from bosal_decoding.constraints.constrained_slot import Verdict
from bosal_decoding.constraints.program import Program
from bosal_decoding.errors import VocabularyMismatch
from bosal_decoding.follower import Follower
from bosal_decoding.fused_slots import FusedSlots
from bosal_decoding.legality import Legality
from bosal_decoding.limits import MAX_TOKENS
from bosal_decoding.opening import UNOPENED, Opening
from bosal_decoding.plan import Plan
from bosal_decoding.plugin_slots import PluginSlots
from bosal_decoding.sentence_slots import SentenceSlots
from bosal_decoding.stopping import BanMatch
from bosal_decoding.surprise_slots import SurpriseSlots
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import (
    CombineState,
    HostScopes,
    LegalTokens,
    SlotState,
    on_device,
)


class Slots:
    """The choices of a batch: their plans as rows of numbers, their outputs, what may come next.

    Stages work on `state`, `coupling`, `plugins`, `fused` and `surprise`; choices and their tokens
    come and go by the methods here alone.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_slots: int,
        device: torch.device | str = "cpu",
        *,
        plugins: PluginSlots,
        packs_touched: bool = False,
        legality: Legality | None = None,
        follower: Follower | None = None,
    ) -> None:
        """Hold `num_slots` choices for a model whose head has `vocabulary_size` rows."""
        self.state = SlotState(
            num_slots=num_slots,
            vocab_size=vocabulary_size,
            device=device,
            packs_touched=packs_touched,
        )
        self.coupling = CombineState(num_slots, device)
        self.plugins = plugins
        # Empty where no kernels draw.
        self.fused = FusedSlots()
        # Tokens that exist; the rows of the head behind them are padding.
        self.num_tokens = vocabulary_size
        self._vocabulary_size = vocabulary_size
        self._outputs: list[list[int]] = [[] for _ in range(num_slots)]
        # Whether a slot is inside of its constraint, as the state has it.
        self._insides = [False] * num_slots
        self._scopes = HostScopes(self.state) if packs_touched else None
        self.surprise = SurpriseSlots(self.state)
        self._sentences = SentenceSlots(self.state)
        self._legality = legality or Legality(num_slots, vocabulary_size, device)
        self._follower = follower

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
        if plan.vocabulary.size > self._vocabulary_size:
            raise VocabularyMismatch(plan.vocabulary.size, self._vocabulary_size)
        self._legality.admit(slot, plan, program, max_tokens, opening)
        self.num_tokens = plan.vocabulary.size
        params = plan.slot_params(seed=seed, choice=choice, logprobs=logprobs)
        self.state.admit(
            slot, params, plan.touched(history), instruction=history, breakers=plan.breakers
        )
        self.coupling.admit(slot, plan.coupling)
        if self._scopes is not None:
            self.fused.admit(slot, params, plan.coupling)
        self.plugins.admit(slot, plan.plugins, history)
        self._outputs[slot] = []
        self._renew(slot)
        self._sentences.admit(slot, plan)
        if self._follower is not None:
            self._follower.free(slot)
        if program is not None:
            self.set_in_constraint([slot], [True])

    def output(self, slot: int) -> tuple[int, ...]:
        """The tokens committed to a slot."""
        return tuple(self._outputs[slot])

    def num_streams(self, slot: int) -> int:
        """How many rows a slot's group has."""
        return self.coupling.num_streams(slot)

    def start_masks(self, slots: Sequence[int]) -> None:
        """Begin to fill the constraints' masks of slots, to call before the model runs."""
        self._legality.start(slots)

    def legal(self, slots: Sequence[int]) -> LegalTokens | None:
        """The masks of slots: what is dictated, and what the constraints allow."""
        return self._legality.legal(slots, self._outputs)

    def read_regions(self, slots: Sequence[int]) -> None:
        """Learn which slots write free text, where that counts as outside of the constraint.

        To call before anything of a step asks where its slots are.
        """
        in_text = self._legality.in_text(slots)
        if in_text:
            self.set_in_constraint(list(in_text), [not one for one in in_text.values()])

    def dictated(self, slots: Sequence[int]) -> LegalTokens | None:
        """The part of the masks of slots that holds without any constraint."""
        return self._legality.dictated(slots, self._outputs)

    def commit(self, slots: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        """Append tokens to the outputs of distinct slots."""
        self.state.append(slots, token_lists)
        for slot, tokens in zip(slots, token_lists, strict=True):
            self._outputs[slot].extend(tokens)
            self._legality.commit(slot, tokens)
        self._sentences.read(slots, self._outputs)
        if self._follower is not None:
            self._follower.commit(slots, token_lists)

    def rollback(self, slot: int, num_tokens: int) -> None:
        """Take back the last tokens of a slot, as if they had never been committed.

        Bans at positions that lie behind the new end go with them.
        """
        output = self._outputs[slot]
        if not 0 <= num_tokens <= len(output):
            raise ValueError(f"cannot take back {num_tokens} of {len(output)} tokens")
        if num_tokens:
            self.state.retract(slot, output[-num_tokens:])
            del output[-num_tokens:]
            self.plugins.rollback(slot)
            self._sentences.read([slot], self._outputs)
            self._legality.rollback(slot, num_tokens, len(output))
        if self._follower is not None:
            self._follower.rollback(slot, num_tokens)

    def is_bound(self, slot: int) -> bool:
        """Whether anything but the model may say what comes next in a slot, or end it."""
        return self._legality.is_bound(slot)

    def settle(self, slot: int) -> Verdict:
        """What the constraint says of a slot after its last token.

        After RETRACT, `retract` takes that token back and forces a completion that fits.
        """
        return self._legality.settle(slot, self._outputs[slot])

    def retract(self, slot: int) -> bool:
        """Take back the last token of a slot whose constraint asked for it.

        Returns whether the text is complete without it.
        """
        close = self._legality.fallback(slot)
        self.rollback(slot, 1)
        self._legality.force(slot, close)
        return not close

    def dictate(self, slot: int, vocabulary: Vocabulary, tokens: Sequence[int]) -> None:
        """Let tokens come next in a slot, whatever the model thinks."""
        self._legality.dictate(slot, vocabulary, len(self._outputs[slot]), tokens)

    def pending(self, slot: int) -> list[int]:
        """The tokens that are dictated to a slot and did not come yet."""
        return self._legality.pending(slot, len(self._outputs[slot]))

    def take_forced(self, slot: int) -> list[int]:
        """Commit the tokens that must follow in a slot, all at once, and return them.

        Who does not take them gets them one by one, as the only legal token of each step.
        """
        tokens = self._legality.forced(slot, len(self._outputs[slot]))
        if tokens:
            self.commit([slot], [tokens])
        return tokens

    def is_dictated(self, slot: int) -> bool:
        """Whether what comes next in a slot is not the model's choice, or not its alone."""
        return self._legality.is_dictated(slot, self._outputs[slot])

    def was_forced(self, slot: int) -> bool:
        """Whether the last token of a slot was not the model's choice."""
        return self._legality.was_forced(slot, len(self._outputs[slot]) - 1)

    def blocked(self, slot: int) -> Verdict:
        """Whether it was the constraint that left a slot without a legal token."""
        return self._legality.blocked(slot)

    def is_legal(self, slot: int, token: int) -> bool:
        """Whether a slot's constraint allows a token next, by the mask that is in force."""
        return self._legality.is_legal(slot, token)

    def is_whole(self, slot: int) -> bool:
        """Whether a slot has a constraint which its output satisfies."""
        return self._legality.is_whole(slot)

    def lift_constraint(self, slot: int) -> None:
        """Let a slot go on without its constraint."""
        self._legality.lift_constraint(slot)
        self.set_in_constraint([slot], [False])

    def set_in_constraint(self, slots: Sequence[int], is_inside: Sequence[bool]) -> None:
        """Say which of the slots are inside of their constraint from the next step on.

        Rules may be limited to one side of it; a fresh slot is inside if it has one.
        """
        inside = on_device(is_inside, self.state.device, torch.bool)
        self.state.in_constraint[self.index(slots)] = inside
        for slot, is_in in zip(slots, is_inside, strict=True):
            self._insides[slot] = is_in
        if self._follower is not None:
            self._follower.set_in_constraint(slots, is_inside)

    def is_in_constraint(self, slot: int) -> bool:
        return self._insides[slot]

    def resolve(self, slots: Sequence[int]) -> None:
        """Put in force what the scopes of slots say at this step; for those the kernels draw."""
        if self._scopes is not None and self.state.scopes.is_used:
            positions = [len(self._outputs[slot]) for slot in slots]
            self._scopes.resolve(slots, positions, [self._insides[slot] for slot in slots])

    def leave(self, slots: Sequence[int]) -> None:
        """Let the torch path say at this step what the scopes of slots put in force."""
        if self._scopes is not None:
            self._scopes.forget(slots)

    def in_force(self, slot: int, rules: Collection[int]) -> frozenset[int]:
        """Which of some rules, by place in the recipe, were in force at a slot's last step."""
        if not rules:
            return frozenset()
        row = self.state.active[slot].tolist()
        return frozenset(rule for rule in rules if row[rule])

    def ban(self, slot: int, position: int, token: int, match: BanMatch | None = None) -> None:
        """Make a token illegal at one output position of a slot; `match` says why."""
        self.state.ban_at(slot, position, [token])
        if self._follower is not None:
            self._follower.ban(slot, position, token, match)

    def free(self, slot: int) -> None:
        """Return a slot."""
        self.state.free(slot)
        self.coupling.admit(slot, None)
        self._outputs[slot] = []
        self._renew(slot)
        self._sentences.free(slot)
        self.plugins.free(slot)
        self._legality.free(slot)
        if self._follower is not None:
            self._follower.free(slot)

    def take_fill_seconds(self) -> float:
        """Return what filling the constraints' masks took since the last call."""
        return self._legality.take_fill_seconds()

    def close(self) -> None:
        """Let go of the threads that fill masks and run plug-ins."""
        self._legality.close()
        self.plugins.close()

    def index(self, numbers: Sequence[int]) -> Tensor:
        """Slots, places or tokens as a tensor on the state's device."""
        return on_device(numbers, self.state.device)

    def _renew(self, slot: int) -> None:
        """Take it that a slot's numbers are those of a fresh choice, or of none."""
        self._insides[slot] = False
        self.leave([slot])
