"""Answers given to be scored: which tokens they are."""

from collections.abc import Sequence

from bosal_decoding.continuation import continuation_ids
from bosal_decoding.errors import UnknownTokenId
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_server.request_errors import MissingField, OutOfRange, named


def num_given_tokens(plan: Plan, given: str | Sequence[int]) -> int:
    """About how many tokens an answer to score has: what it needs room for behind a prompt."""
    if isinstance(given, str):
        given = plan.vocabulary.encode_fragment(plan.recipe.scaffold.lead + given)
    return max(len(given), 1)


def given_tokens(
    plan: Plan, prompts: Sequence[Prompt], given: str | Sequence[int], *, limit: int
) -> tuple[int, ...]:
    """Return the tokens of an answer to score, behind a plan's prompts.

    Raises:
        DecodingError, ServerError: naming `text` or `token_ids`.
    """
    field = "text" if isinstance(given, str) else "token_ids"
    if not given:
        raise MissingField(field, "there is nothing to score")
    with named(field):
        if isinstance(given, str):
            tokens = continuation_ids(plan, prompts[0], given)
        else:
            tokens = tuple(given)
            for place, token in enumerate(tokens):
                if token >= plan.vocabulary.size:
                    where = f"token_ids.ids[{place}]"
                    raise UnknownTokenId(token, plan.vocabulary.size, field=where)
        if len(tokens) > limit:
            raise OutOfRange(field, len(tokens), low=1, high=limit)
        plan.check_room(prompts, len(tokens))
    return tokens
