"""A given answer as the tokens a model would have to draw for it."""

from bosal_decoding.errors import UnfitContinuation
from bosal_decoding.plan import Plan, Prompt
from bosal_decoding.vocabulary import common_prefix


def continuation_ids(plan: Plan, prompt: Prompt, text: str) -> tuple[int, ...]:
    """Tokenise a text behind a prompt; the space that the scaffold leaves to the answer is added.

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
        return tuple(whole[length:])
    # Together they are cut elsewhere; alone the text may still be spelled exactly.
    num_leading = len(vocabulary.encode(""))
    alone = vocabulary.encode(text)[num_leading:]
    if vocabulary.bytes_of(alone) != text.encode():
        raise UnfitContinuation
    return tuple(alone)
