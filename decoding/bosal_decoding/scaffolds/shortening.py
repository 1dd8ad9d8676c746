"""How a conversation becomes shorter: its oldest turns go, then the scaffold's first examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bosal_decoding.scaffolds.scaffold import Message, Scaffold


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortened:
    """A conversation and its scaffold with their oldest parts left out."""

    scaffold: Scaffold
    messages: Sequence[Message]
    dropped_messages: int = 0
    dropped_examples: int = 0


class Shortening:
    """The ways to shorten a conversation, one part more left out in each.

    A user's turn goes with the answer behind it; the last turn always stays. Examples go one by one
    once no turn is left to go, the least like the question first where they are chosen.
    """

    def __init__(self, scaffold: Scaffold, messages: Sequence[Message]) -> None:
        self._scaffold = scaffold
        self._messages = messages
        turns = (at for at, message in enumerate(messages) if at and message.role == "user")
        self._cuts = [0, *turns]

    def __len__(self) -> int:
        return len(self._cuts) + self._scaffold.num_examples

    def __getitem__(self, step: int) -> Shortened:
        cut = self._cuts[min(step, len(self._cuts) - 1)]
        num_examples = max(step - len(self._cuts) + 1, 0)
        return Shortened(
            scaffold=self._scaffold.without_examples(num_examples),
            messages=self._messages[cut:],
            dropped_messages=cut,
            dropped_examples=num_examples,
        )

    def least(self, fits: Callable[[Shortened], bool]) -> Shortened:
        """The one that leaves out least of those that fit; the shortest if none does."""
        low, high = 0, len(self) - 1
        while low < high:
            middle = (low + high) // 2
            if fits(self[middle]):
                high = middle
            else:
                low = middle + 1
        return self[low]
