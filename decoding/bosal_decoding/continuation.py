"""A given answer as the tokens a model would have to draw for it."""

from bosal_decoding.errors import UnfitContinuation
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_decoding.vocabulary import Vocabulary, common_prefix


def continuation_ids(plan: Plan, prompt: Prompt, text: str) -> tuple[int, ...]:
    """Tokenise a text behind a prompt; the space that the scaffold leaves to the answer is added.

    What the plan's rules force is cut into their tokens, where the text has it.

    Raises:
        UnfitContinuation: no tokens spell just this text behind the prompt's own.
    """
    lead = plan.recipe.scaffold.lead
    if lead and text and not text.startswith(lead):
        text = lead + text
    vocabulary = plan.vocabulary
    whole = vocabulary.encode(prompt.text + text)
    length = len(prompt.token_ids)
    if common_prefix(whole, prompt.token_ids) == length:
        ids = whole[length:]
    else:
        # Together they are cut elsewhere; alone the text may still be spelled exactly.
        alone = vocabulary.spell(prompt.opening.hidden + text)
        if alone is None:
            raise UnfitContinuation
        ids = alone
    ids = _refitted(vocabulary, ids, 0, prompt.opening.token_ids)
    least = len(prompt.opening.token_ids)
    for phrase in plan.phrases:
        if phrase.at is not None:
            place = max(phrase.at, least)
            ids = _refitted(vocabulary, ids, place, phrase.token_ids)
            least = place + len(phrase.token_ids)
        else:
            ids = _ended(vocabulary, ids, phrase.token_ids)
    return tuple(ids)


def _refitted(
    vocabulary: Vocabulary, ids: list[int], place: int, forced: tuple[int, ...]
) -> list[int]:
    """Cut what tokens spell from a place on so that it begins with others, if it can."""
    if not forced or tuple(ids[place : place + len(forced)]) == forced:
        return ids
    spelled, wanted = vocabulary.bytes_of(ids[place:]), vocabulary.bytes_of(forced)
    rest = _spelled(vocabulary, spelled.removeprefix(wanted))
    return (
        [*ids[:place], *forced, *rest] if spelled.startswith(wanted) and rest is not None else ids
    )


def _ended(vocabulary: Vocabulary, ids: list[int], forced: tuple[int, ...]) -> list[int]:
    """Cut what tokens spell so that it ends with others, if it can."""
    spelled, wanted = vocabulary.bytes_of(ids), vocabulary.bytes_of(forced)
    if tuple(ids[-len(forced) :]) == forced or not spelled.endswith(wanted):
        return ids
    before = spelled[: -len(wanted)]
    kept = len(ids)
    while len(vocabulary.bytes_of(ids[:kept])) > len(before):
        kept -= 1
    between = _spelled(vocabulary, before[len(vocabulary.bytes_of(ids[:kept])) :])
    return ids if between is None else [*ids[:kept], *between, *forced]


def _spelled(vocabulary: Vocabulary, part: bytes) -> list[int] | None:
    """Tokens that spell bytes; None if there are none."""
    try:
        return vocabulary.spell(part.decode()) if part else []
    except UnicodeDecodeError:
        return None
