"""Which tokens would repeat an n-gram of a choice's history."""

from collections.abc import Iterable, Sequence


class NgramIndex:
    """The n-grams of one choice's history; a token more or less costs the same at any length."""

    def __init__(self, length: int, history: Iterable[int]) -> None:
        """Index n-grams of `length` tokens, at least two."""
        self._num_leading = length - 1
        self._tokens: list[int] = []
        # The tokens that followed each run of leading tokens, oldest first.
        self._followers: dict[tuple[int, ...], list[int]] = {}
        self.extend(history)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the history."""
        for token in tokens:
            if len(self._tokens) >= self._num_leading:
                self._followers.setdefault(self._leading(), []).append(token)
            self._tokens.append(token)

    def drop_last(self, count: int) -> None:
        """Forget the last tokens of the history."""
        for _ in range(count):
            self._tokens.pop()
            if len(self._tokens) >= self._num_leading:
                leading = self._leading()
                followers = self._followers[leading]
                followers.pop()
                if not followers:
                    del self._followers[leading]

    def repeating(self) -> Sequence[int]:
        """List the distinct tokens that would complete an n-gram the history already holds."""
        return list(dict.fromkeys(self._followers.get(self._leading(), ())))

    def _leading(self) -> tuple[int, ...]:
        return tuple(self._tokens[-self._num_leading :])
