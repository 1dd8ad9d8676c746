"""Phrases that an answer must hold, and which of them a choice has said."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPhrase:
    """A phrase in tokens, and the output position it is due at; None is before the end."""

    token_ids: tuple[int, ...]
    at: int | None


@dataclass(slots=True)
class PhraseBook:
    """The phrases of one choice. What was said is known by where, so it can be taken back."""

    phrases: Sequence[PlacedPhrase]
    max_tokens: int
    # What is known to follow the phrase at the end.
    end: tuple[int, ...] = ()
    # Of the phrases said, by place in `phrases`: where each began.
    _said: dict[int, int] = field(default_factory=dict)

    def due(self, num_tokens: int) -> tuple[int, ...]:
        """The phrase to say behind an output of so many tokens; () for none.

        The last one comes when no more than it fits.
        """
        for place, phrase in enumerate(self.phrases):
            if place not in self._said and phrase.at is not None and phrase.at <= num_tokens:
                self._said[place] = num_tokens
                return phrase.token_ids
        room = self.max_tokens - num_tokens
        for phrase in self.phrases:
            if phrase.at is None and len(phrase.token_ids) + len(self.end) >= room:
                return self.ending(num_tokens)
        return ()

    def ending(self, num_tokens: int) -> tuple[int, ...]:
        """The phrase to say before the text may end behind so many tokens; () for none."""
        for place, phrase in enumerate(self.phrases):
            if place not in self._said and phrase.at is None:
                self._said[place] = num_tokens
                return (*phrase.token_ids, *self.end)
        return ()

    def rollback(self, num_tokens: int) -> None:
        """Only the first tokens of the output are left."""
        self._said = {place: at for place, at in self._said.items() if at < num_tokens}
