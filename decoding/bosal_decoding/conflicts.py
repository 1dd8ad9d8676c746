"""Which rules of one recipe contradict each other, found before any work."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from bosal_decoding.errors import RuleConflict, shorten
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import Draft, Rule, RuleStage
from bosal_decoding.schema import join_field
from bosal_decoding.stopping import BanMatch, StringAutomaton, TextStop


def check_conflicts(recipe: Recipe, draft: Draft) -> None:
    """Refuse a recipe whose rules cannot all be honoured.

    Raises:
        RuleConflict: naming the two rules and the place of the one that is in the way.
    """
    places = {rule.name: join_field("rules", index) for index, rule in enumerate(recipe.rules)}
    min_tokens = draft.numbers.get("min_tokens", 0)
    if draft.max_tokens is not None and min_tokens > draft.max_tokens:
        why = f"at least {min_tokens} and at most {draft.max_tokens} tokens"
        raise RuleConflict("min_tokens", "max_tokens", why, field=places["min_tokens"])
    for stop in draft.stop_strings:
        for banned in draft.banned_strings:
            if banned in stop:
                ban_text, stop_text = shorten(banned.decode()), shorten(stop.decode())
                why = f"the output can never hold {stop_text} while {ban_text} is banned"
                raise RuleConflict(
                    "banned_strings", "stop_strings", why, field=places["banned_strings"]
                )
    _check_allowed(recipe, draft)
    _check_forced(recipe, draft, places)
    for first, second, field in _pairs(recipe):
        names = {first.name, second.name}
        if names == {"temperature", "dynamic_temperature"}:
            why = "a step has one temperature"
            raise RuleConflict(second.name, first.name, why, field=field)
        if first.name == "mirostat" and second.stage is RuleStage.TRUNCATE:
            why = "it measures the surprise of what is drawn from what it leaves, so it comes last"
            raise RuleConflict("mirostat", second.name, why, field=field)


def _check_allowed(recipe: Recipe, draft: Draft) -> None:
    """Refuse sets of allowed tokens that leave nothing, alone or with a least length."""
    rules = [
        (index, rule)
        for index, rule in enumerate(recipe.rules)
        if rule.name in ("allowed_tokens", "allowed_scripts")
    ]
    sets = list(zip(rules, draft.allowed, strict=False))
    for ((_, first), kept), ((index, second), others) in combinations(sets, 2):
        if first.overlaps(second) and not kept & others:
            why = "no token is in both"
            raise RuleConflict(second.name, first.name, why, field=join_field("rules", index))
    least = [(at, rule) for at, rule in enumerate(recipe.rules) if rule.name == "min_tokens"]
    for (_, rule), kept in sets:
        for index, other in least:
            if rule.overlaps(other) and kept <= draft.vocabulary.eos_ids:
                why = "only the end of the text is allowed"
                raise RuleConflict(other.name, rule.name, why, field=join_field("rules", index))


def _check_forced(recipe: Recipe, draft: Draft, places: Mapping[str, str]) -> None:
    """Refuse to force what the recipe forbids, or what would end the answer."""
    texts = {"prefill": [draft.prefill.encode()] if draft.prefill else []}
    texts["forced_phrases"] = [
        draft.vocabulary.bytes_of(phrase.token_ids) for phrase in draft.phrases
    ]
    for name, said in texts.items():
        for text in said:
            watcher = TextStop(
                StringAutomaton(draft.stop_strings),
                StringAutomaton(draft.banned_strings),
                draft.watchers,
            )
            match = watcher.feed(text)
            if match is None:
                continue
            string = shorten(match.string.decode(errors="replace"))
            if isinstance(match, BanMatch):
                why = f"{string} is banned, and part of what is forced"
                raise RuleConflict(name, "banned_strings", why, field=places[name])
            stops = [rule.name for rule in recipe.rules if rule.stage is RuleStage.STOP]
            why = f"{string} ends the answer, and is part of what is forced"
            raise RuleConflict(name, " or ".join(stops), why, field=places[name])
    if not draft.phrases:
        return
    if draft.has_constraint:
        why = "the constraint alone decides what may stand where"
        raise RuleConflict("forced_phrases", "constraint", why, field=places["forced_phrases"])
    if draft.guide is not None and any(phrase.at is None for phrase in draft.phrases):
        why = "the guide ends the answer, so no phrase can stand before its end"
        raise RuleConflict("forced_phrases", "nudging", why, field=places["forced_phrases"])


def check_opening(recipe: Recipe, allowed: Sequence[Sequence[int]], tokens: Sequence[int]) -> None:
    """Refuse to start an answer with tokens that the recipe does not allow there."""
    rules = [rule for rule in recipe.rules if rule.name.startswith("allowed_")]
    for rule, words in zip(rules, allowed, strict=False):
        for position, token in enumerate(tokens):
            is_allowed = token >> 5 < len(words) and bool(words[token >> 5] >> (token & 31) & 1)
            if not is_allowed and rule.holds_at(position, in_constraint=False):
                why = f"its token {token} is not allowed at position {position}"
                raise RuleConflict("prefill", rule.name, why, field="")


def _pairs(recipe: Recipe) -> Iterator[tuple[Rule, Rule, str]]:
    """Yield rules that may act at one step, in the recipe's order, and the second one's place."""
    for (_, first), (index, second) in combinations(enumerate(recipe.rules), 2):
        if first.overlaps(second):
            yield first, second, join_field("rules", index)
