"""A plan while it is being compiled: where the rules of one recipe write their numbers."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bosal_decoding.errors import (
    RuleConflict,
    RuleUnsupported,
    UnknownName,
    UnknownTokenId,
    UnknownTokenString,
    VocabulariesDiffer,
    shorten,
)
from bosal_decoding.phrases import PlacedPhrase
from bosal_decoding.schema import join_field
from bosal_decoding.stopping import OwnedWatcher
from bosal_decoding.streams import StreamModel, StreamSpec
from bosal_decoding.string_automaton import StringAutomaton
from bosal_decoding.vocabulary import Vocabulary
from bosal_decoding.watching import Watcher
from bosal_kernels import (
    ACTIVE,
    DELTA,
    MAX_ALLOWED,
    MAX_STAGES,
    CombineParams,
    Scope,
    ScopedValue,
    Stage,
    TokenFlag,
)

Ids = NDArray[np.int64]


class PluginCalls(Protocol):
    """What the pipeline asks of a rule that is a plug-in; see `plugin.PluginRule`."""

    name: ClassVar[str]
    package: ClassVar[str]
    stage: ClassVar[Any]

    def begin(self, prepared: Any, history: Sequence[int]) -> Any: ...

    def advance(self, state: Any, tokens: Sequence[int]) -> Any: ...

    @classmethod
    def act(cls, rows: Tensor, turns: Sequence[Any]) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginPart:
    """A plug-in's part in a plan."""

    rule: PluginCalls
    # What it made of the tokenizer.
    prepared: Any
    scope: Scope


@dataclass(slots=True, kw_only=True)
class Draft:
    """The numbers of a plan in the making; a number nobody sets stays neutral."""

    vocabulary: Vocabulary
    # The served models, by name.
    models: Mapping[str, StreamModel] = field(default_factory=dict)
    # The streams beside the base, how they are combined, and the rule that asks for it.
    streams: tuple[StreamSpec, ...] = ()
    coupling: CombineParams | None = None
    coupled_by: str = ""
    # Who nudges, below which certainty, and the bytes of the answer it can follow.
    guide: StreamSpec | None = None
    nudges_below: float = 0.0
    guide_bytes: int = 0
    nudged_by: int | None = None
    has_constraint: bool = False
    # What several rules of one name must have in common, by rule and parameter.
    agreed: dict[tuple[str, str], Hashable] = field(default_factory=dict)
    # What the answer starts with, what may be cut anew at its beginning, and what it must say.
    prefill: str = ""
    heals_prompt: bool = False
    heals_prefill: bool = False
    phrases: list[PlacedPhrase] = field(default_factory=list)
    # Fields of SlotParams, by name.
    numbers: dict[str, Any] = field(default_factory=dict)
    # Numbers of rules that do not act at every step.
    scoped: list[ScopedValue] = field(default_factory=list)
    chain: list[tuple[Stage, float, float]] = field(default_factory=list)
    deltas: dict[int, float] = field(default_factory=dict)
    # What the instruction's tokens are to the rules.
    instruction_flags: TokenFlag = TokenFlag.NONE
    # Whether some rule edits the end of the text.
    edits_end: bool = False
    # By place of their rule, whether each token [V] is allowed.
    allowed: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    breakers: set[int] = field(default_factory=set)
    max_tokens: int | None = None
    # With the rules that bring them, by place; None among them brings them at every step.
    stop_strings: dict[bytes, set[int | None]] = field(default_factory=dict)
    banned_strings: dict[bytes, set[int | None]] = field(default_factory=dict)
    # What else ends the answer, and how the scaffold marks a turn.
    watchers: list[OwnedWatcher] = field(default_factory=list)
    # Scopes of rules over the text, by place in the recipe.
    text_scopes: dict[int, Scope] = field(default_factory=dict)
    turn_marks: tuple[str, ...] = ()
    plugins: list[PluginPart] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Of the rule being compiled: its place in the recipe and in the document, its scope, and what
    # its strings became.
    index: int = 0
    path: str = ""
    scope: Scope = field(default_factory=Scope)
    token_ids: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def begin(self, index: int, scope: Scope) -> None:
        """Turn to a rule of the recipe."""
        self.index = index
        self.path = join_field("rules", index)
        self.scope = scope
        self.token_ids = {}
        if not scope.is_always:
            self._limit(ACTIVE, True, column=index)

    def set(self, **numbers: float) -> None:
        """Set numbers of `SlotParams`; under a scope they are in force where it holds."""
        if self.scope.is_always:
            self.numbers.update(numbers)
        else:
            for name, value in numbers.items():
                self._limit(name, value)

    def truncate(self, stage: Stage, value: float, second: float = 0.0) -> None:
        """Append a stage to the truncation chain; rules are called as their stages."""
        if len(self.chain) == MAX_STAGES:
            why = f"a recipe has at most {MAX_STAGES} rules that truncate"
            raise RuleUnsupported(stage.name.lower(), why, field=self.path)
        if not self.scope.is_always:
            self._limit("chain_stage", stage, column=len(self.chain))
        self.chain.append((stage, value, second))

    def end_ids(self, rule: str) -> frozenset[int]:
        """Say that a rule edits the end of the text, and return the tokens that are it."""
        if not self.vocabulary.eos_ids:
            raise RuleUnsupported(rule, "the model has no end-of-text token", field=self.path)
        self.edits_end = True
        return self.vocabulary.eos_ids

    def couple(self, rule: str, streams: Sequence[StreamSpec], params: CombineParams) -> None:
        """Decode with these streams beside the base; one rule of a recipe may."""
        if self.coupled_by:
            why = "a choice's streams are combined by one rule"
            raise RuleConflict(self.coupled_by, rule, why, field=self.path)
        for stream in streams:
            if stream.model:
                self._check_tokens(stream.model, join_field(self.path, stream.role))
        self.coupled_by, self.streams, self.coupling = rule, tuple(streams), params

    def agree(self, rule: str, name: str, value: Hashable) -> None:
        """Refuse a value other than that of the same rule elsewhere in the recipe.

        For what a choice has but one of, whatever the rules' scopes.
        """
        if self.agreed.setdefault((rule, name), value) != value:
            why = f"they differ in '{name}', and a choice has one for both"
            raise RuleConflict(rule, rule, why, field=join_field(self.path, name))

    def nudge(self, rule: str, guide: StreamSpec, top1_below: float, reserve_bytes: int) -> None:
        """Take words of a guide, of any tokenizer, where the base is unsure; one rule may."""
        if self.guide is not None:
            raise RuleConflict(rule, rule, "a choice has one guide", field=self.path)
        if guide.model:
            self.model(guide.model, join_field(self.path, guide.role))
        self.guide, self.nudges_below, self.guide_bytes = guide, top1_below, reserve_bytes
        self.nudged_by = None if self.scope.is_always else self.index

    def model(self, name: str, field: str) -> StreamModel:
        """Return a served model."""
        if name not in self.models:
            raise UnknownName("served model", name, self.models, field=field)
        return self.models[name]

    def _check_tokens(self, name: str, field: str) -> None:
        other = self.model(name, field).vocabulary
        token = self.vocabulary.first_difference(other)
        if token is not None:
            own, its = (
                one.pieces[token] if token < one.size else "" for one in (self.vocabulary, other)
            )
            raise VocabulariesDiffer(name, token, (own, its), field=field)

    def weigh_id(self, token: int, weight: float, *path: str | int) -> None:
        """Add a weight to one token."""
        self.check_id(token, *path)
        if self.scope.is_always:
            self.deltas[token] = self.deltas.get(token, 0.0) + weight
        else:
            self._limit(DELTA, weight, column=token)

    def weigh_string(self, text: str, weight: float, *path: str | int, skip: bool = False) -> None:
        """Add a weight to every single token that spells `text`; none is an error or a note."""
        ids = self.vocabulary.ids_of(text)
        where = join_field(self.path, *path)
        if not ids and not skip:
            raise UnknownTokenString(text, field=where)
        if not ids:
            self.notes.append(f"{where}: no single token spells {shorten(text)}, skipped")
        self.token_ids[text] = ids
        for token in ids:
            self.weigh_id(token, weight, *path)

    def _limit(self, param: str, value: float, *, column: int = 0) -> None:
        """Put a number in force where the rule's scope holds."""
        self.scoped.append(ScopedValue(param=param, value=value, scope=self.scope, column=column))

    def check_id(self, token: int, *path: str | int) -> None:
        """Refuse an id outside of the vocabulary."""
        if token >= self.vocabulary.size:
            where = join_field(self.path, *path)
            raise UnknownTokenId(token, self.vocabulary.size, field=where)

    def allow(self, tokens: Sequence[int] | Ids, rule: str, *, with_end: bool) -> None:
        """Make all other tokens illegal."""
        kept = np.zeros(self.vocabulary.size, np.bool_)
        kept[np.asarray(tokens, np.int64)] = True
        if with_end:
            kept[list(self.vocabulary.eos_ids)] = True
        if not kept.any():
            raise RuleUnsupported(rule, "no token of this vocabulary is left", field=self.path)
        if len(self.allowed) == MAX_ALLOWED:
            why = f"a recipe has at most {MAX_ALLOWED} rules of allowed tokens"
            raise RuleUnsupported(rule, why, field=self.path)
        if not self.scope.is_always:
            self._limit("allows", True, column=len(self.allowed))
        self.allowed[self.index] = kept

    def stop_at(self, texts: Iterable[str]) -> None:
        """End the answer at any of these strings."""
        for text in texts:
            self.stop_strings.setdefault(text.encode(), set()).add(self._owner())

    def ban(self, texts: Iterable[str]) -> None:
        """Take back any of these strings."""
        for text in texts:
            self.banned_strings.setdefault(text.encode(), set()).add(self._owner())

    def watch(self, watcher: Watcher) -> None:
        """End the answer where a watcher says so."""
        self.watchers.append(OwnedWatcher(watcher, self._owner()))

    def _owner(self) -> int | None:
        """The place of the rule over the text at hand, if it does not act at every step."""
        if self.scope.is_always:
            return None
        self.text_scopes[self.index] = self.scope
        return self.index

    def stops(self) -> StringAutomaton:
        return _automaton(self.stop_strings)

    def bans(self) -> StringAutomaton:
        return _automaton(self.banned_strings)


def _automaton(strings: Mapping[bytes, set[int | None]]) -> StringAutomaton:
    scoped = {
        text: frozenset(owner for owner in owners if owner is not None)
        for text, owners in strings.items()
        if None not in owners
    }
    return StringAutomaton(strings, scoped)
