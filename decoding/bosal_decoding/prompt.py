"""A rendered conversation in one model's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from bosal_decoding.opening import UNOPENED, Opening


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One stream's prompt in tokens."""

    text: str
    token_ids: tuple[int, ...]
    # The tokens that spell what the user wrote, in order; history rules see these.
    history_ids: tuple[int, ...]
    # Leading tokens shared by every prompt of the plan, worth keeping in the prefix cache.
    pin_tokens: int
    # How the output behind it begins.
    opening: Opening = UNOPENED
    # Messages and examples that a scaffold with `drop_oldest` left out.
    dropped_messages: int = 0
    dropped_examples: int = 0


def tokens_within(
    spans: Sequence[tuple[int, int]], ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """Return the tokens that share a character with one of the spans, which are in order."""
    found = []
    place = 0
    for token, (start, end) in zip(ids, offsets, strict=False):
        while place < len(spans) and spans[place][1] <= start:
            place += 1
        if place < len(spans) and max(start, spans[place][0]) < end:
            found.append(token)
    return tuple(found)
