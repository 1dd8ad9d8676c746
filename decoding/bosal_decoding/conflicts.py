"""Which rules of one recipe contradict each other, found before any work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np

from bosal_decoding.errors import RuleConflict, shorten
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import Draft, Rule, RuleStage
from bosal_decoding.schema import join_field
from bosal_decoding.stopping import BanMatch, TextStop
from bosal_kernels import Region, Scope


def check_conflicts(recipe: Recipe, draft: Draft) -> None:
    """Refuse a recipe whose rules cannot all be honoured.

    Raises:
        RuleConflict: naming the two rules and the place of the one that is in the way.
    """
    acting = _acting(recipe, draft)
    # Where each rule that acts at every step stands: there is one of a name at most.
    places = {
        recipe.rules[index].name: join_field("rules", index)
        for index, scope in acting.items()
        if scope.is_always
    }
    min_tokens = draft.numbers.get("min_tokens", 0)
    if draft.max_tokens is not None and min_tokens > draft.max_tokens:
        why = f"at least {min_tokens} and at most {draft.max_tokens} tokens"
        raise RuleConflict("min_tokens", "max_tokens", why, field=places["min_tokens"])
    _check_bans(recipe, draft, acting, places)
    _check_allowed(recipe, draft, acting)
    _check_forced(recipe, draft, places)
    for first, second, field in _pairs(recipe, acting):
        names = {first.name, second.name}
        if names == {"temperature", "dynamic_temperature"}:
            why = "a step has one temperature"
            raise RuleConflict(second.name, first.name, why, field=field)
        if first.name == "mirostat" and second.stage is RuleStage.TRUNCATE:
            why = "it measures the surprise of what is drawn from what it leaves, so it comes last"
            raise RuleConflict("mirostat", second.name, why, field=field)


def _acting(recipe: Recipe, draft: Draft) -> dict[int, Scope]:
    """When each rule acts, by its place; not those that never do, for want of a constraint."""
    scopes = {
        place: rule.kernel_scope(has_constraint=draft.has_constraint)
        for place, rule in enumerate(recipe.rules)
    }
    return {place: scope for place, scope in scopes.items() if scope is not None}


def _check_bans(
    recipe: Recipe, draft: Draft, acting: Mapping[int, Scope], places: Mapping[str, str]
) -> None:
    """Refuse to wait for a string that is banned wherever it counts, or to ban a whole choice."""
    bans = [place for place in acting if recipe.rules[place].name == "banned_strings"]
    for at, place in product(acting, bans):
        stop, ban = recipe.rules[at], recipe.rules[place]
        texts = {"stop_strings": getattr(stop, "values", ()), "stop_turns": draft.turn_marks}
        if not acting[place].covers(acting[at]):
            continue
        for text, banned in product(texts.get(stop.name, ()), getattr(ban, "values", ())):
            if banned in text:
                why = f"the output can never hold {shorten(text)} while {shorten(banned)} is banned"
                field = join_field("rules", place)
                raise RuleConflict("banned_strings", stop.name, why, field=field)
    choice = recipe.constraint.choice if recipe.constraint is not None else None
    always = [text for text, owners in draft.banned_strings.items() if None in owners]
    if choice and all(any(text in one.encode() for text in always) for one in choice):
        why = "each of its texts holds a banned string"
        raise RuleConflict("banned_strings", "constraint", why, field=places["banned_strings"])


def _check_allowed(recipe: Recipe, draft: Draft, acting: Mapping[int, Scope]) -> None:
    """Refuse sets of allowed tokens that leave nothing, alone or with another rule."""
    # What a gate decides is not certain.
    sure = {place: scope for place, scope in acting.items() if not scope.is_gated}
    sets = [(place, kept) for place, kept in draft.allowed.items() if place in sure]
    for (first, kept), (second, others) in combinations(sets, 2):
        if sure[first].overlaps(sure[second]) and not (kept & others).any():
            names = recipe.rules[second].name, recipe.rules[first].name
            why = "no token is in both"
            raise RuleConflict(*names, why, field=join_field("rules", second))
    ends = list(draft.vocabulary.eos_ids)
    spelled = draft.vocabulary.token_bytes
    for (place, kept), (at, scope) in product(sets, sure.items()):
        rule, other = recipe.rules[place], recipe.rules[at]
        if not sure[place].overlaps(scope):
            continue
        can_end, words = bool(kept[ends].any()), kept.copy()
        words[ends] = False
        why = ""
        if other.name == "min_tokens" and not words.any():
            why = "only the end of the text is allowed"
        elif other.name in ("eos_ramp", "exponential_decay_length") and not can_end:
            if rule.is_always:
                why = "the end of the text is not allowed"
        elif other.name == "no_repeat_ngram" and words.sum() == 1 and not can_end:
            why = "the one token that is allowed could only repeat itself"
        elif other.name == "banned_strings" and not can_end:
            texts = [text.encode() for text in getattr(other, "values", ())]
            if all(
                any(text in spelled[token] for text in texts) for token in np.flatnonzero(words)
            ):
                why = "every token that is allowed holds a banned string"
        if why:
            raise RuleConflict(other.name, rule.name, why, field=join_field("rules", at))


def _check_forced(recipe: Recipe, draft: Draft, places: Mapping[str, str]) -> None:
    """Refuse to force what the recipe forbids, or what would end the answer."""
    # The text, and the positions it may stand at. What is placed comes late by other forced text.
    prefill = draft.prefill.encode()
    placed = [phrase for phrase in draft.phrases if phrase.at is not None]
    longest = len(prefill) + sum(len(phrase.token_ids) for phrase in placed)
    said = [("prefill", prefill, Scope(until=len(prefill)))] if prefill else []
    for phrase in draft.phrases:
        text = draft.vocabulary.bytes_of(phrase.token_ids)
        at = Scope() if phrase.at is None else Scope(after=phrase.at, until=phrase.at + longest)
        said.append(("forced_phrases", text, at))
    if draft.has_constraint:
        said = [(name, text, replace(at, region=Region.INSIDE)) for name, text, at in said]
    for name, text, at in said:
        in_force = [
            rule
            for rule, scope in draft.text_scopes.items()
            if scope.overlaps(at) and not scope.is_gated
        ]
        match = TextStop(draft.stops(), draft.bans(), draft.watchers).feed(text, in_force=in_force)
        if match is None:
            continue
        string = shorten(match.string.decode(errors="replace"))
        if isinstance(match, BanMatch):
            why = f"{string} is banned, and part of what is forced"
            raise RuleConflict(name, "banned_strings", why, field=places[name])
        is_string = match.string in draft.stop_strings
        stops = [
            rule.name
            for rule in recipe.rules
            if rule.stage is RuleStage.STOP
            and rule.name != "max_tokens"
            and (rule.name in ("stop_strings", "stop_turns")) == is_string
        ]
        why = "what is forced would end the answer"
        raise RuleConflict(name, " or ".join(stops), why, field=places[name])
    if not draft.phrases:
        return
    if draft.has_constraint:
        why = "the constraint alone decides what may stand where"
        raise RuleConflict("forced_phrases", "constraint", why, field=places["forced_phrases"])
    if draft.guide is not None and any(phrase.at is None for phrase in draft.phrases):
        why = "the guide ends the answer, so no phrase can stand before its end"
        raise RuleConflict("forced_phrases", "nudging", why, field=places["forced_phrases"])


def check_opening(
    recipe: Recipe, allowed: Mapping[int, Sequence[int]], tokens: Sequence[int]
) -> None:
    """Refuse to start an answer with tokens that the recipe does not allow there.

    `allowed` are the masks of allowed tokens, by place of their rule.
    """
    for place, words in allowed.items():
        rule = recipe.rules[place]
        for position, token in enumerate(tokens):
            is_allowed = token >> 5 < len(words) and bool(words[token >> 5] >> (token & 31) & 1)
            if not is_allowed and rule.holds_at(position, in_constraint=False):
                why = f"its token {token} is not allowed at position {position}"
                raise RuleConflict("prefill", rule.name, why, field=join_field("rules", place))


def _pairs(recipe: Recipe, acting: Mapping[int, Scope]) -> Iterator[tuple[Rule, Rule, str]]:
    """Yield rules that may act at one step, in the recipe's order, and the second one's place."""
    for (first, scope), (second, other) in combinations(acting.items(), 2):
        if scope.overlaps(other):
            yield recipe.rules[first], recipe.rules[second], join_field("rules", second)
