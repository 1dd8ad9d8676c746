"""A recipe compiled for one model: numbers and tokens, shared by every request that uses it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from bosal_decoding.conflicts import check_opening
from bosal_decoding.errors import InvalidConversation, InvalidMaxTokens, PromptTooLong, RuleConflict
from bosal_decoding.limits import DEFAULT_MAX_TOKENS, MAX_TOKENS
from bosal_decoding.nudging import GuidePlan
from bosal_decoding.opening import UNOPENED, Opener, Opening
from bosal_decoding.phrases import PlacedPhrase
from bosal_decoding.prompt import Prompt, tokens_within
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import PluginPart, Rule, RuleStage
from bosal_decoding.scaffolds import Message
from bosal_decoding.scaffolds.shortening import Shortened, Shortening
from bosal_decoding.schema import join_field
from bosal_decoding.stopping import BanMatch, OwnedWatcher, TextStop
from bosal_decoding.streams import StreamPlan
from bosal_decoding.string_automaton import StringAutomaton
from bosal_decoding.vocabulary import Vocabulary, common_prefix
from bosal_kernels import (
    DELTA,
    CombineParams,
    Scope,
    SlotParams,
    TokenFlag,
    TouchedTokens,
    choice_key,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """What one rule became for this vocabulary."""

    rule: str
    stage: str
    # In force, defaults filled in.
    params: Mapping[str, Any]
    # For rules over token strings: the ids each string names here.
    token_ids: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Everything a recipe says, in one vocabulary's tokens; immutable."""

    recipe: Recipe
    vocabulary: Vocabulary
    context_tokens: int
    # Complete but for the noise key and the wanted log-probabilities.
    params: SlotParams
    # The rules that bring its sets of allowed tokens, by place in the recipe.
    allowed_by: tuple[int, ...]
    # (token, summed weight) of all weights that act at every step.
    deltas: tuple[tuple[int, float], ...]
    # What the instruction's tokens are to the rules, and whether a rule edits the end of the text.
    instruction_flags: TokenFlag
    edits_end: bool
    # Tokens that the rules against loops do not look across.
    breakers: tuple[int, ...]
    stops: StringAutomaton
    bans: StringAutomaton
    watchers: tuple[OwnedWatcher, ...]
    # When the rules over the text count that do not always, by place in the recipe.
    text_scopes: Mapping[int, Scope]
    # Rules of other packages.
    plugins: tuple[PluginPart, ...]
    max_tokens: int | None
    # The base first.
    streams: tuple[StreamPlan, ...]
    # How their rows become one; None for a single stream.
    coupling: CombineParams | None
    # Who nudges; its prompt comes behind those of the streams.
    guide: GuidePlan | None
    # How outputs begin, and what they must say further on.
    opener: Opener
    phrases: tuple[PlacedPhrase, ...]
    rules: tuple[CompiledRule, ...]
    notes: tuple[str, ...]
    # Tokens the base's prompt has beyond the user's text.
    scaffold_tokens: int

    @property
    def version(self) -> str:
        return self.recipe.version

    @property
    def all_streams(self) -> tuple[StreamPlan, ...]:
        """The streams and the guide."""
        return self.streams if self.guide is None else (*self.streams, self.guide.stream)

    @property
    def num_streams(self) -> int:
        return len(self.streams)

    @property
    def pinned_ids(self) -> tuple[int, ...]:
        """Leading tokens of every prompt of the base."""
        return self.streams[0].pinned_ids

    @property
    def eos_ids(self) -> frozenset[int]:
        return self.vocabulary.eos_ids

    @property
    def waits_for_sentences(self) -> bool:
        """Whether a rule asks if the output ends a sentence."""
        scoped = any(value.param == "eos_ramp_waits" for value in self.params.scoped)
        return self.params.eos_ramp_waits or scoped

    @property
    def watches_text(self) -> bool:
        """Whether a rule ends the answer, or takes it back, for what its text says."""
        return bool(self.stop_strings or self.banned_strings or self.watchers)

    @property
    def stop_strings(self) -> tuple[bytes, ...]:
        return self.stops.strings

    @property
    def banned_strings(self) -> tuple[bytes, ...]:
        return self.bans.strings

    def banning(self, match: BanMatch) -> Rule:
        """The rule that takes back a banned string; at one step there is one at most."""
        if match.rule is not None:
            return self.recipe.rules[match.rule]
        return next(
            rule
            for place, rule in enumerate(self.recipe.rules)
            if rule.name == "banned_strings" and place not in self.text_scopes
        )

    def prompts(
        self, messages: Sequence[Message], max_tokens: int | None = None
    ) -> tuple[Prompt, ...]:
        """Render and tokenise a conversation, one prompt per stream.

        A scaffold with `drop_oldest` leaves out what keeps the answer from its `max_tokens`; unset
        they are the recipe's, else 256 or half of the context.
        """
        whole = Shortened(scaffold=self.recipe.scaffold, messages=messages)
        if not self.recipe.scaffold.drop_oldest:
            return self._prompts(whole)
        usual = min(DEFAULT_MAX_TOKENS, self.context_tokens // 2)
        wanted = max_tokens or self.max_tokens or usual

        def fits(shortened: Shortened) -> bool:
            try:
                self.check_room(self._prompts(shortened), wanted)
            except PromptTooLong:
                return False
            return True

        if fits(whole):
            return self._prompts(whole)
        return self._prompts(Shortening(self.recipe.scaffold, messages).least(fits))

    def _prompts(self, shortened: Shortened) -> tuple[Prompt, ...]:
        rendered = [
            stream.prompt.render(shortened.scaffold, shortened.messages)
            for stream in self.all_streams
        ]
        texts = ["" if one is None else one.text for one in rendered]
        encodings = [
            stream.vocabulary.encode_with_offsets(text) if text else ([], [])
            for stream, text in zip(self.all_streams, texts, strict=True)
        ]
        ids = [one for one, _ in encodings]
        if not ids[0]:
            raise InvalidConversation("the tokenizer has no token for the text")
        num_cut, opening = self._opening(texts[0], ids[: self.num_streams])
        prompts: list[Prompt] = []
        for index, stream in enumerate(self.all_streams):
            is_coupled = index < self.num_streams
            own = ids[index][: len(ids[index]) - num_cut * is_coupled]
            own = own or list(prompts[0].token_ids[-1:])
            self._check_room(len(own), 1, index)
            one = rendered[index]
            spans = one.spans if one is not None and index == 0 else ()
            prompts.append(
                Prompt(
                    text=texts[index],
                    token_ids=tuple(own),
                    history_ids=tokens_within(spans, own, encodings[index][1]) if spans else (),
                    pin_tokens=common_prefix(own, stream.pinned_ids),
                    opening=opening if is_coupled else UNOPENED,
                    dropped_messages=shortened.dropped_messages,
                    dropped_examples=shortened.dropped_examples,
                )
            )
        return tuple(prompts)

    def _opening(self, text: str, ids: Sequence[Sequence[int]]) -> tuple[int, Opening]:
        """How many tokens go from the end of each coupled prompt, and how the output begins."""
        if not self.opener.is_used:
            return 0, UNOPENED
        # A prompt of nothing becomes the base's last token.
        others = [other for other in ids[1:] if other]
        found = self.opener.open(self.vocabulary, text, ids[0], others)
        if found is None:
            place, coupling = next(
                (place, rule.rule)
                for place, rule in enumerate(self.rules)
                if rule.stage == RuleStage.COMBINE
            )
            why = "its prompts end in different text, so the same tokens cannot be taken back"
            raise RuleConflict("token_healing", coupling, why, field=join_field("rules", place))
        kept, opening = found
        if self.recipe.constraint is None:
            allowed = dict(zip(self.allowed_by, self.params.allowed, strict=True))
            check_opening(self.recipe, allowed, opening.token_ids)
        return len(ids[0]) - kept, opening

    def output_budget(self, prompts: Sequence[Prompt], requested: int | None = None) -> int:
        """How many tokens a choice may have: as requested, else the recipe's, else 256.

        A request beyond the context is an error; a default is cut to the room there is.
        """
        if requested is None:
            room = min(
                stream.context_tokens - len(prompt.token_ids)
                for stream, prompt in zip(self.streams, prompts, strict=False)
            )
            budget = min(self.max_tokens or DEFAULT_MAX_TOKENS, room)
        else:
            budget = requested
        if not 1 <= budget <= MAX_TOKENS:
            raise InvalidMaxTokens(budget, MAX_TOKENS)
        self.check_room(prompts, budget)
        if self.params.min_tokens > budget:
            why = f"at least {self.params.min_tokens} and at most {budget} tokens"
            raise RuleConflict("min_tokens", "max_tokens", why, field="max_tokens")
        self._check_forced(prompts[0].opening, budget)
        return budget

    def _check_forced(self, opening: Opening, budget: int) -> None:
        """Refuse a budget that ends before what the rules force has been said."""
        if self.opener.answer and opening.least_tokens > budget:
            why = f"its {opening.least_tokens} tokens and at most {budget}"
            raise RuleConflict("prefill", "max_tokens", why, field="max_tokens")
        last = sum(len(phrase.token_ids) for phrase in self.phrases if phrase.at is None)
        needed = opening.least_tokens + last
        for phrase in self.phrases:
            if phrase.at is not None:
                needed = max(needed, phrase.at + last) + len(phrase.token_ids)
        if self.phrases and needed > budget:
            why = f"its phrases end at token {needed} and at most {budget} may come"
            raise RuleConflict("forced_phrases", "max_tokens", why, field="max_tokens")

    def check_room(self, prompts: Sequence[Prompt], num_tokens: int) -> None:
        """Refuse prompts that leave no room for so many tokens."""
        for stream, prompt in enumerate(prompts[: self.num_streams]):
            self._check_room(len(prompt.token_ids), num_tokens, stream)

    def slot_params(self, *, seed: int, choice: int, logprobs: int = -1) -> SlotParams:
        """The numbers of one choice."""
        return replace(self.params, key=choice_key(seed, choice), logprobs=logprobs)

    def touched(self, history: Sequence[int]) -> TouchedTokens:
        """The tokens whose logits a choice edits from its first step; choices share them."""
        return _touched(self, tuple(history) if self.instruction_flags else ())

    def text_stop(self) -> TextStop:
        """A fresh watcher of one choice's text."""
        return TextStop(self.stops, self.bans, self.watchers)

    def _check_room(self, prompt_tokens: int, max_tokens: int, stream: int) -> None:
        room = self.all_streams[stream].context_tokens
        if prompt_tokens + max_tokens > room:
            raise PromptTooLong(prompt_tokens, max_tokens, room, stream=stream)


@lru_cache(maxsize=8)
def _touched(plan: Plan, history: tuple[int, ...]) -> TouchedTokens:
    entries = dict.fromkeys((token for token, _ in plan.deltas), 0)
    for value in plan.params.scoped:
        if value.param == DELTA:
            entries[value.column] = int(TokenFlag.LISTED)
    if plan.edits_end:
        for token in plan.eos_ids:
            entries[token] = entries.get(token, 0) | TokenFlag.EOS
    # As a plain number, and each token once: an instruction may have tens of thousands.
    flags = int(plan.instruction_flags)
    for token in dict.fromkeys(history):
        entries[token] = entries.get(token, 0) | flags
    deltas = dict(plan.deltas)
    return TouchedTokens.of(
        ids=list(entries),
        deltas=[deltas.get(token, 0.0) for token in entries],
        flags=list(entries.values()),
    )
