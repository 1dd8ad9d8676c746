"""Which rules of one recipe contradict each other, found before any work."""

from collections.abc import Iterator
from itertools import combinations

from bosal_decoding.errors import RuleConflict, shorten
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import Draft, Rule, RuleStage
from bosal_decoding.schema import join_field


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


def _pairs(recipe: Recipe) -> Iterator[tuple[Rule, Rule, str]]:
    """Yield rules that may act at one step, in the recipe's order, and the second one's place."""
    for (_, first), (index, second) in combinations(enumerate(recipe.rules), 2):
        if first.overlaps(second):
            yield first, second, join_field("rules", index)
