"""A recipe compiled for one model: numbers and tokens, shared by every request that uses it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bosal_decoding.errors import InvalidConversation, InvalidMaxTokens, PromptTooLong, RuleConflict
from bosal_decoding.limits import DEFAULT_MAX_TOKENS, MAX_TOKENS
from bosal_decoding.nudging import GuidePlan
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import PluginPart
from bosal_decoding.scaffolds import Message
from bosal_decoding.stopping import StringAutomaton, TextStop
from bosal_decoding.streams import StreamPlan
from bosal_decoding.vocabulary import Vocabulary
from bosal_decoding.watching import Watcher
from bosal_kernels import (
    DELTA,
    CombineParams,
    SlotParams,
    TokenFlag,
    TouchedTokens,
    choice_key,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One stream's prompt in tokens."""

    text: str
    token_ids: tuple[int, ...]
    # The tokens that spell what the user wrote, in order; history rules see these.
    history_ids: tuple[int, ...]
    # Leading tokens shared by every prompt of the plan, worth keeping in the prefix cache.
    pin_tokens: int


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
    # (token, summed weight) of all weights that act at every step.
    deltas: tuple[tuple[int, float], ...]
    # What the instruction's tokens are to the rules, and whether a rule edits the end of the text.
    instruction_flags: TokenFlag
    edits_end: bool
    # Tokens that the rules against loops do not look across.
    breakers: tuple[int, ...]
    stops: StringAutomaton
    bans: StringAutomaton
    watchers: tuple[Watcher, ...]
    # Rules of other packages.
    plugins: tuple[PluginPart, ...]
    max_tokens: int | None
    # The base first.
    streams: tuple[StreamPlan, ...]
    # How their rows become one; None for a single stream.
    coupling: CombineParams | None
    # Who nudges; its prompt comes behind those of the streams.
    guide: GuidePlan | None
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

    def prompts(self, messages: Sequence[Message]) -> tuple[Prompt, ...]:
        """Render and tokenise a conversation, one prompt per stream."""
        prompts: list[Prompt] = []
        for index, stream in enumerate(self.all_streams):
            rendered = stream.prompt.render(self.recipe.scaffold, messages)
            text = "" if rendered is None else rendered.text
            ids, offsets = stream.vocabulary.encode_with_offsets(text) if text else ([], [])
            if not ids and index == 0:
                raise InvalidConversation("the tokenizer has no token for the text")
            if not ids:
                ids = list(prompts[0].token_ids[-1:])
            self._check_room(len(ids), 1, index)
            history = rendered.spans if rendered is not None and index == 0 else ()
            prompts.append(
                Prompt(
                    text=text,
                    token_ids=tuple(ids),
                    history_ids=tokens_within(history, ids, offsets) if history else (),
                    pin_tokens=common_prefix(ids, stream.pinned_ids),
                )
            )
        return tuple(prompts)

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
        return budget

    def check_room(self, prompts: Sequence[Prompt], num_tokens: int) -> None:
        """Refuse prompts that leave no room for so many tokens."""
        for stream, prompt in enumerate(prompts[: self.num_streams]):
            self._check_room(len(prompt.token_ids), num_tokens, stream)

    def slot_params(self, *, seed: int, choice: int, logprobs: int = -1) -> SlotParams:
        """The numbers of one choice."""
        return replace(self.params, key=choice_key(seed, choice), logprobs=logprobs)

    def touched(self, history: Sequence[int]) -> TouchedTokens:
        """The tokens whose logits a choice edits from its first step."""
        entries = dict.fromkeys((token for token, _ in self.deltas), 0)
        for value in self.params.scoped:
            if value.param == DELTA:
                entries[value.column] = int(TokenFlag.LISTED)
        if self.edits_end:
            for token in self.eos_ids:
                entries[token] = entries.get(token, 0) | TokenFlag.EOS
        if self.instruction_flags:
            for token in history:
                entries[token] = entries.get(token, 0) | self.instruction_flags
        deltas = dict(self.deltas)
        return TouchedTokens.of(
            ids=list(entries),
            deltas=[deltas.get(token, 0.0) for token in entries],
            flags=list(entries.values()),
        )

    def text_stop(self) -> TextStop:
        """A fresh watcher of one choice's text."""
        return TextStop(self.stops, self.bans, self.watchers)

    def _check_room(self, prompt_tokens: int, max_tokens: int, stream: int) -> None:
        room = self.all_streams[stream].context_tokens
        if prompt_tokens + max_tokens > room:
            raise PromptTooLong(prompt_tokens, max_tokens, room, stream=stream)


def tokens_within(
    spans: Sequence[tuple[int, int]], ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """Return the tokens that share a character with one of the spans, which are in order."""
    found = []
    place = 0
    for token, (start, end) in zip(ids, offsets, strict=True):
        while place < len(spans) and spans[place][1] <= start:
            place += 1
        if place < len(spans) and max(start, spans[place][0]) < end:
            found.append(token)
    return tuple(found)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length
